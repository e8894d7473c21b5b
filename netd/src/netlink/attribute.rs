//! Attributes of netlink messages (linux/netlink.h): length and kind in the host's byte order, padded to four bytes.

const NLA_F_NESTED: u16 = 0x8000;

/// A growing list of attributes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    /// A list that follows the header of a message.
    pub(crate) fn after(header: Vec<u8>) -> Self {
        Self(header)
    }

    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        // A single attribute is at most 64 KiB; the callers cut lists into smaller ones.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A number in the network's byte order, as nf_tables wants them.
    pub(crate) fn number_be(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// A text with a final NUL.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.put(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::default();
        fill(&mut inner);
        self.put(kind | NLA_F_NESTED, &inner.0)
    }

    pub(crate) fn append(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_their_length_is_not() {
        let mut attrs = Attributes::default();
        attrs.text(1, "abcd").number_be(2, 7).nest(3, |a| {
            a.put(4, &[9]);
        });
        assert_eq!(
            attrs.bytes(),
            [
                9, 0, 1, 0, b'a', b'b', b'c', b'd', 0, 0, 0, 0, // text with NUL, padded
                8, 0, 2, 0, 0, 0, 0, 7, // big-endian
                12, 0, 3, 0x80, 5, 0, 4, 0, 9, 0, 0, 0,
            ]
        );
    }
}
