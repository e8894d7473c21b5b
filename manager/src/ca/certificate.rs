//! What a certificate says of its node. Whether to believe it is for TLS to find out.

use proto::spec::NodeRole;
use proto::{ClusterId, NodeId};
use rand::Rng;
use time::{Duration, OffsetDateTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;

use super::root::role_name;
use super::{BACKDATE, CaError};

/// A node's certificate, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The cluster (O).
    pub cluster: ClusterId,
    /// The role (OU).
    pub role: NodeRole,
    /// The node (CN).
    pub node: NodeId,
    /// Since when it is valid.
    pub not_before: OffsetDateTime,
    /// Until when.
    pub not_after: OffsetDateTime,
    /// The identifier of the key that signed it.
    pub issuer: Vec<u8>,
}

impl Certificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// [`CaError::Read`] also where the subject is none of a node.
    pub fn read(der: &[u8]) -> Result<Self, CaError> {
        let damaged = || CaError::Read("node's certificate");
        let (_, cert) = x509_parser::parse_x509_certificate(der).map_err(|_| damaged())?;
        let subject = cert.subject();
        let role = only(subject.iter_organizational_unit()).ok_or_else(damaged)?;
        let role = [NodeRole::Worker, NodeRole::Manager]
            .into_iter()
            .find(|known| role_name(*known) == role);
        let time = |at: x509_parser::time::ASN1Time| {
            OffsetDateTime::from_unix_timestamp(at.timestamp()).map_err(|_| damaged())
        };
        Ok(Self {
            cluster: only(subject.iter_organization()).ok_or_else(damaged)?.into(),
            role: role.ok_or_else(damaged)?,
            node: only(subject.iter_common_name()).ok_or_else(damaged)?.into(),
            not_before: time(cert.validity().not_before)?,
            not_after: time(cert.validity().not_after)?,
            issuer: issuer(&cert).ok_or_else(damaged)?,
        })
    }

    /// Whether its time is over.
    pub fn has_expired(&self) -> bool {
        self.not_after < OffsetDateTime::now_utc()
    }

    /// When to ask for the next one: somewhere between 50 % and 80 % of its life, so that nodes do not come together.
    pub fn renewal(&self) -> OffsetDateTime {
        self.renewal_at(rand::rng().random_range(0.5..=0.8))
    }

    fn renewal_at(&self, share: f64) -> OffsetDateTime {
        // It was made later than it says.
        let made = self.not_before + BACKDATE;
        made + (self.not_after - made).max(Duration::ZERO) * share
    }
}

fn issuer(cert: &X509Certificate<'_>) -> Option<Vec<u8>> {
    cert.iter_extensions()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => Some(id.key_identifier.as_ref()?.0.to_vec()),
            _ => None,
        })
}

/// The one value; two would leave a choice to the reader.
fn only<'a, 'n: 'a>(
    mut values: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'n>>,
) -> Option<&'a str> {
    let value = values.next()?.as_str().ok()?;
    (values.next().is_none() && !value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::ca::RootCa;

    fn read(pem: &str) -> Result<Certificate, CaError> {
        Certificate::read(&CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
    }

    #[test]
    fn a_certificate_says_what_was_signed() {
        let root = RootCa::generate().unwrap();
        let life = Duration::days(10);
        let signed = root
            .issue(&"c".into(), &"n".into(), NodeRole::Worker, life)
            .unwrap();
        let cert = read(&signed.cert).unwrap();
        assert_eq!(
            (cert.cluster.as_str(), cert.role, cert.node.as_str()),
            ("c", NodeRole::Worker, "n")
        );
        assert!(!cert.has_expired());
        let days = |share| (cert.renewal_at(share) - (cert.not_after - life)).whole_days();
        assert_eq!((days(0.5), days(0.8)), (5, 8));
        assert!(read(root.cert()).is_err(), "the root is no node");
    }
}
