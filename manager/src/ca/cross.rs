//! Roots that come from outside, and the certificate by which an old root vouches for a new one.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use time::OffsetDateTime;
use x509_parser::asn1_rs::Tag;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::pem::parse_x509_pem;
use x509_parser::x509::X509Name;

use super::{BACKDATE, CaError, RootCa};

/// How long an old root vouches for a new one: longer than any node's certificate lives on after the rotation.
const CROSS_LIFE: time::Duration = time::Duration::days(5 * 365);

/// So many roots back somebody may be who has not heard of the others.
const KEPT: u8 = 4;
/// Where a certificate in PEM begins.
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// What a root is, read from its PEM.
pub(super) struct Read {
    pub(super) subject: Vec<u8>,
    pub(super) public_key: Vec<u8>,
    /// The identifier of its key, as the certificates that it signs name it.
    pub(super) key_id: Vec<u8>,
}

/// Reads a root certificate.
pub(super) fn read(pem: &str) -> Result<Read, CaError> {
    with(pem, |cert| {
        Ok(Read {
            subject: cert.subject().as_raw().to_vec(),
            public_key: cert.public_key().raw.to_vec(),
            key_id: key_id(cert).ok_or(CaError::Read("root certificate"))?,
        })
    })
}

/// Checks a root that somebody brings: the nodes must be able to believe it, and it must be possible to leave it again.
pub(super) fn check(cert: &str, key: &str) -> Result<(), CaError> {
    let refused = |why| Err(CaError::Root(why));
    let Ok(key) = KeyPair::from_pem(key) else {
        return refused("the key cannot be read: PEM, PKCS #8, of an ECDSA P-256 key");
    };
    if !key.is_compatible(&PKCS_ECDSA_P256_SHA256) {
        return refused("the key is not one of ECDSA P-256");
    }
    with(cert, |cert| match fault(cert, &key) {
        Some(why) => refused(why),
        None => Ok(()),
    })
}

/// Why a certificate with this key cannot be a root.
fn fault(cert: &X509Certificate<'_>, key: &KeyPair) -> Option<&'static str> {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let time = cert.validity();
    let constraints = cert.basic_constraints().ok().flatten();
    let faults = [
        (
            cert.public_key().raw != key.subject_public_key_info(),
            "the key is not the certificate's",
        ),
        (!cert.is_ca(), "the certificate is none of an authority"),
        (
            cert.subject().as_raw() != cert.issuer().as_raw(),
            "the certificate is not signed by itself",
        ),
        (
            !(time.not_before.timestamp()..time.not_after.timestamp()).contains(&now),
            "the certificate is not in its time",
        ),
        (
            constraints.is_some_and(|of| of.value.path_len_constraint == Some(0)),
            "the certificate's path length is 0, so that it could not vouch for the next root",
        ),
        (
            key_id(cert).is_none(),
            "the certificate has no subject key identifier",
        ),
    ];
    faults.into_iter().find_map(|(is_so, why)| is_so.then_some(why))
}

/// A certificate in PEM by which `old` vouches for `new`: the new one's name and key, signed by the old one.
pub(super) fn sign(old: &RootCa, new: &str, new_key: &str) -> Result<String, CaError> {
    let key = KeyPair::from_pem(new_key)?;
    let issuer = Issuer::from_ca_cert_pem(old.cert(), KeyPair::from_pem(old.own_key())?)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = with(new, |cert| name(cert.subject()))?;
    // Below it are the roots that follow.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(KEPT));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(read(new)?.key_id);
    params.use_authority_key_identifier_extension = true;
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - BACKDATE, now + CROSS_LIFE);
    let cross = params.signed_by(&key, &issuer)?.pem();
    // A name of unusual parts may not survive the way.
    if read(&cross)?.subject != read(new)?.subject {
        return Err(CaError::Root("the certificate's name cannot be copied"));
    }
    Ok(cross)
}

/// The certificate and those that lead from still earlier roots to the one that has signed it, all in PEM.
pub(super) fn follow(cross: String, earlier: &str) -> String {
    let earlier = earlier.split(BEGIN).skip(1).take(usize::from(KEPT) - 1);
    earlier.fold(cross, |chain, cert| chain + BEGIN + cert)
}

fn with<T>(pem: &str, then: impl FnOnce(&X509Certificate<'_>) -> Result<T, CaError>) -> Result<T, CaError> {
    let damaged = || CaError::Read("root certificate");
    let (_, pem) = parse_x509_pem(pem.as_bytes()).map_err(|_| damaged())?;
    then(&pem.parse_x509().map_err(|_| damaged())?)
}

fn key_id(cert: &X509Certificate<'_>) -> Option<Vec<u8>> {
    cert.iter_extensions()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        })
}

/// The same name for the certificate that is to be made.
fn name(of: &X509Name<'_>) -> Result<DistinguishedName, CaError> {
    let unusual = || CaError::Root("the certificate's name has an unusual part");
    let mut name = DistinguishedName::new();
    for part in of.iter_attributes() {
        let oid: Vec<u64> = part.attr_type().iter().ok_or_else(unusual)?.collect();
        let text = part.as_str().map_err(|_| unusual())?;
        let value = match part.attr_value().header.tag() {
            Tag::Utf8String => DnValue::Utf8String(text.to_owned()),
            Tag::PrintableString => DnValue::PrintableString(text.try_into().map_err(|_| unusual())?),
            Tag::Ia5String => DnValue::Ia5String(text.try_into().map_err(|_| unusual())?),
            _ => return Err(unusual()),
        };
        name.push(DnType::from_oid(&oid), value);
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_of_all_that_vouch_are_kept() {
        let one = |name: u8| format!("{BEGIN}\n{name}\n-----END CERTIFICATE-----\n");
        let chain = (0..10).fold(String::new(), |chain, name| follow(one(name), &chain));
        assert_eq!(chain, [9, 8, 7, 6].map(one).concat());
    }
}
