//! Netlink attributes as nf_tables wants them: numbers big-endian, names with a final NUL, nests flagged.

const NLA_F_NESTED: u16 = 0x8000;

/// A growing list of attributes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Attrs(pub(super) Vec<u8>);

impl Attrs {
    pub(super) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        // A single attribute is at most 64 KiB; the callers cut element lists into smaller ones.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::default();
        fill(&mut inner);
        self.put(kind | NLA_F_NESTED, &inner.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_their_length_is_not() {
        let mut attrs = Attrs::default();
        attrs.text(1, "abcd").number(2, 7).nest(3, |a| {
            a.put(4, &[9]);
        });
        assert_eq!(
            attrs.0,
            [
                9, 0, 1, 0, b'a', b'b', b'c', b'd', 0, 0, 0, 0, // text with NUL, padded
                8, 0, 2, 0, 0, 0, 0, 7, // big-endian
                12, 0, 3, 0x80, 5, 0, 4, 0, 9, 0, 0, 0,
            ]
        );
    }
}
