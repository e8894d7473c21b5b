//! The root certificate, and what it signs. ECDSA P-256 throughout.
//!
//! A node's certificate names the cluster (O), the role (OU) and the node (CN), as SwarmKit's does. The manager writes the
//! subject; nothing that a node asks for ends up in it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::object::TlsInfo;
use proto::spec::NodeRole;
use proto::{ClusterId, NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};

use super::cross;

/// How long a root is valid.
const ROOT_LIFE: Duration = Duration::days(20 * 365);
/// How long a node's certificate is valid where the cluster does not say.
pub(crate) const NODE_LIFE: Duration = Duration::days(90);
/// Certificates begin a little in the past, for clocks that are slow.
pub(crate) const BACKDATE: Duration = Duration::hours(1);
/// Bytes of an uncompressed point on P-256.
const P256_POINT: usize = 65;
/// The root's name.
const ROOT_NAME: &str = "swarm-ca";

/// A certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Making a key or certificate failed.
    #[error("make a certificate")]
    Make(#[from] rcgen::Error),
    /// A node's request for a certificate makes no sense.
    #[error("read the certificate request")]
    Request(#[source] rcgen::Error),
    /// A stored certificate makes no sense.
    #[error("read the {0}")]
    Read(&'static str),
    /// A root that somebody brings cannot be the cluster's.
    #[error("the root certificate cannot be used: {0}")]
    Root(&'static str),
    /// A file could not be worked with.
    #[error(transparent)]
    File(#[from] crate::files::FileError),
    /// The keys at rest could not be kept.
    #[error(transparent)]
    Vault(#[from] crate::vault::VaultError),
}

/// The root certificate with its key. Debug output does not show the key.
#[derive(Clone)]
pub struct RootCa {
    /// What is trusted.
    cert: String,
    key: String,
    /// What signs, while it is another.
    signer: Option<Signer>,
    /// Follows each certificate that is signed.
    cross: String,
}

#[derive(Clone)]
struct Signer {
    cert: String,
    key: String,
}

/// A node's certificate with its key.
#[derive(Clone)]
pub struct Signed {
    /// The certificate in PEM.
    pub cert: String,
    /// The private key in PEM.
    pub key: String,
}

impl RootCa {
    /// A new root.
    ///
    /// # Errors
    /// [`CaError::Make`].
    pub fn generate() -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let mut params = root_params();
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - BACKDATE, now + ROOT_LIFE);
        Ok(Self::from_parts(
            params.self_signed(&key)?.pem(),
            key.serialize_pem(),
        ))
    }

    /// A certificate with its key, both in PEM.
    pub(super) fn from_parts(cert: String, key: String) -> Self {
        Self {
            cert,
            key,
            signer: None,
            cross: String::new(),
        }
    }

    /// The root that a cluster keeps. While it is exchanged, the old one is trusted and the new one signs.
    pub fn from_object(object: &proto::object::RootCa) -> Self {
        let signer = object.next.as_ref().map(|next| Signer {
            cert: next.cert.clone(),
            key: next.key.to_string(),
        });
        let cross = object.next.as_ref().map_or(&object.cross, |next| &next.cross);
        Self {
            cert: object.cert.clone(),
            key: object.key.to_string(),
            signer,
            cross: cross.clone(),
        }
    }

    /// The root as the cluster keeps it.
    pub fn to_object(&self) -> proto::object::RootCa {
        proto::object::RootCa {
            cert: self.cert.clone(),
            key: self.key.clone().into(),
            ..proto::object::RootCa::default()
        }
    }

    /// The certificate in PEM.
    pub fn cert(&self) -> &str {
        &self.cert
    }

    /// The key of the certificate that is trusted, in PEM.
    pub(super) fn own_key(&self) -> &str {
        &self.key
    }

    /// What the API says of the root that signs: it is the one that shall be trusted.
    ///
    /// # Errors
    /// [`CaError::Read`].
    pub fn tls_info(&self) -> Result<TlsInfo, CaError> {
        let (signer, _) = self.signer();
        let root = cross::read(signer)?;
        Ok(TlsInfo {
            trust_root: signer.to_owned(),
            cert_issuer_subject: STANDARD.encode(root.subject),
            cert_issuer_public_key: STANDARD.encode(root.public_key),
        })
    }

    /// The identifier of the key that signs, as nodes' certificates name it.
    ///
    /// # Errors
    /// [`CaError::Read`].
    pub fn signer_id(&self) -> Result<Vec<u8>, CaError> {
        Ok(cross::read(self.signer().0)?.key_id)
    }

    /// Certificate and key of what signs.
    fn signer(&self) -> (&str, &str) {
        match &self.signer {
            Some(signer) => (&signer.cert, &signer.key),
            None => (&self.cert, &self.key),
        }
    }

    /// A new key and certificate for a node, valid for so long.
    ///
    /// # Errors
    /// [`CaError::Make`].
    pub fn issue(
        &self,
        cluster: &ClusterId,
        node: &NodeId,
        role: NodeRole,
        life: Duration,
    ) -> Result<Signed, CaError> {
        let key = KeyPair::generate()?;
        Ok(Signed {
            cert: self.certify(&key, cluster, node, role, life)?,
            key: key.serialize_pem(),
        })
    }

    /// A certificate in PEM for the key of a node's request (PEM, PKCS #10), valid for so long. Nothing but the key is taken
    /// from the request, and that only if the request proves that its sender holds it.
    ///
    /// # Errors
    /// [`CaError::Request`], [`CaError::Make`].
    pub fn sign(
        &self,
        csr: &str,
        cluster: &ClusterId,
        node: &NodeId,
        role: NodeRole,
        life: Duration,
    ) -> Result<String, CaError> {
        self.certify(&requested_key(csr)?, cluster, node, role, life)
    }

    fn certify(
        &self,
        key: &impl PublicKeyData,
        cluster: &ClusterId,
        node: &NodeId,
        role: NodeRole,
        life: Duration,
    ) -> Result<String, CaError> {
        // The issuer is known by its name and its key's identifier: both are as in its certificate.
        let (signer, signer_key) = self.signer();
        let issuer = Issuer::from_ca_cert_pem(signer, KeyPair::from_pem(signer_key)?)?;
        let mut params = node_params(cluster, node, role)?;
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - BACKDATE, now + life);
        Ok(params.signed_by(key, &issuer)?.pem() + &self.cross)
    }
}

impl std::fmt::Debug for RootCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootCa")
            .field("cert", &self.cert)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signed")
            .field("cert", &self.cert)
            .finish_non_exhaustive()
    }
}

/// SHA-256 in hex of the public key of a node's request (PEM, PKCS #10), whose sender holds it.
///
/// # Errors
/// [`CaError::Request`].
pub(super) fn key_digest(csr: &str) -> Result<String, CaError> {
    Ok(hex::encode(Sha256::digest(requested_key(csr)?.der_bytes())))
}

fn requested_key(csr: &str) -> Result<impl PublicKeyData, CaError> {
    let request = CertificateSigningRequestParams::from_pem(csr).map_err(CaError::Request)?;
    let key = request.public_key;
    match key.algorithm() == &PKCS_ECDSA_P256_SHA256 && key.der_bytes().len() == P256_POINT {
        true => Ok(key),
        false => Err(CaError::Request(rcgen::Error::UnsupportedSignatureAlgorithm)),
    }
}

/// The role as it stands in certificates.
pub(crate) fn role_name(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Worker => "swarm-worker",
        NodeRole::Manager => "swarm-manager",
    }
}

fn root_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, ROOT_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn node_params(cluster: &ClusterId, node: &NodeId, role: NodeRole) -> Result<CertificateParams, CaError> {
    let mut names = vec![role_name(role).to_owned(), node.to_string()];
    if role == NodeRole::Manager {
        names.push(ROOT_NAME.to_owned());
    }
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, cluster.to_string());
    params
        .distinguished_name
        .push(DnType::OrganizationalUnitName, role_name(role));
    params
        .distinguished_name
        .push(DnType::CommonName, node.to_string());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use x509_parser::pem::parse_x509_pem;

    use super::*;

    #[test]
    fn a_node_certificate_names_cluster_role_and_node() {
        let root = RootCa::generate().unwrap();
        let (cluster, node) = (ClusterId::random(), NodeId::random());
        let signed = root.issue(&cluster, &node, NodeRole::Manager, NODE_LIFE).unwrap();
        let (_, pem) = parse_x509_pem(signed.cert.as_bytes()).unwrap();
        let cert = pem.parse_x509().unwrap();
        let (_, root_pem) = parse_x509_pem(root.cert().as_bytes()).unwrap();
        let root_cert = root_pem.parse_x509().unwrap();
        assert_eq!(
            cert.subject().to_string(),
            format!("O={cluster}, OU=swarm-manager, CN={node}")
        );
        assert_eq!(cert.issuer(), root_cert.subject());
        assert!(root_cert.is_ca() && !cert.is_ca());
        let days = (cert.validity().not_after.timestamp() - cert.validity().not_before.timestamp()) / 86_400;
        assert_eq!(days, 90);
        assert!(signed.key.contains("PRIVATE KEY") && !format!("{root:?}{signed:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_root_survives_the_way_through_the_store() {
        let root = RootCa::generate().unwrap();
        let again = RootCa::from_object(&root.to_object());
        assert!(
            again
                .issue(
                    &ClusterId::random(),
                    &NodeId::random(),
                    NodeRole::Worker,
                    NODE_LIFE
                )
                .is_ok()
        );
        let info = again.tls_info().unwrap();
        assert!(!info.cert_issuer_public_key.is_empty() && info.trust_root == root.cert());
    }
}
