//! This node's certificate in files: `swarm-root-ca.crt`, `swarm-node.crt`, `swarm-node.key`, readable by root alone.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use proto::spec::NodeRole;
use proto::{ClusterId, NodeId};
use time::{Duration, OffsetDateTime};
use x509_parser::pem::parse_x509_pem;

use super::root::role_name;
use super::{CaError, RootCa, Signed};
use crate::files;

/// Who this node is, in which cluster.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Its role.
    pub role: NodeRole,
}

impl Identity {
    /// The certificate and key in the directory, made anew if they are missing, of somebody else, or past half their
    /// life.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn ensure(&self, dir: &Path, root: &RootCa, life: Duration) -> Result<Signed, CaError> {
        if let Some(signed) = read(dir)?.filter(|signed| self.is_good(signed, OffsetDateTime::now_utc())) {
            return Ok(signed);
        }
        let signed = root.issue(&self.cluster, &self.node, self.role, life)?;
        files::make_dir(dir)?;
        // The certificate last: without it, the next start makes both again.
        for (path, text) in [
            (dir.join("swarm-root-ca.crt"), root.cert()),
            (key_path(dir), &signed.key),
            (cert_path(dir), &signed.cert),
        ] {
            files::replace(&path, |writer| writer.write_all(text.as_bytes()))?;
        }
        Ok(signed)
    }

    fn is_good(&self, signed: &Signed, now: OffsetDateTime) -> bool {
        let Ok((_, pem)) = parse_x509_pem(signed.cert.as_bytes()) else {
            return false;
        };
        let Ok(cert) = pem.parse_x509() else { return false };
        let subject = format!(
            "O={}, OU={}, CN={}",
            self.cluster,
            role_name(self.role),
            self.node
        );
        let (from, until) = (
            cert.validity().not_before.timestamp(),
            cert.validity().not_after.timestamp(),
        );
        let middle = from + (until - from) / 2;
        let public_key = rcgen::KeyPair::from_pem(&signed.key).ok();
        let same_key = public_key
            .is_some_and(|key| cert.public_key().raw == rcgen::PublicKeyData::subject_public_key_info(&key));
        cert.subject().to_string() == subject && same_key && (from..middle).contains(&now.unix_timestamp())
    }
}

fn cert_path(dir: &Path) -> PathBuf {
    dir.join("swarm-node.crt")
}

fn key_path(dir: &Path) -> PathBuf {
    dir.join("swarm-node.key")
}

fn read(dir: &Path) -> Result<Option<Signed>, CaError> {
    let [cert, key] = [cert_path(dir), key_path(dir)].map(|path| {
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            // What is no text is no certificate either.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => Ok(None),
            Err(error) => Err(files::error("read", &path)(error)),
        }
    });
    Ok(cert?.zip(key?).map(|(cert, key)| Signed { cert, key }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster: "cluster".into(),
            node: "node".into(),
            role: NodeRole::Manager,
        }
    }

    #[test]
    fn a_good_certificate_is_kept_and_another_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (root, life) = (RootCa::generate().unwrap(), Duration::days(90));
        let first = identity().ensure(dir.path(), &root, life).unwrap();
        assert_eq!(
            identity().ensure(dir.path(), &root, life).unwrap().cert,
            first.cert
        );
        let worker = Identity {
            role: NodeRole::Worker,
            ..identity()
        };
        assert_ne!(worker.ensure(dir.path(), &root, life).unwrap().cert, first.cert);
        std::fs::write(cert_path(dir.path()), "rubbish").unwrap();
        assert!(
            identity()
                .ensure(dir.path(), &root, life)
                .unwrap()
                .cert
                .contains("CERTIFICATE")
        );
        let later = OffsetDateTime::now_utc() + Duration::days(50);
        assert!(identity().is_good(&first, OffsetDateTime::now_utc()) && !identity().is_good(&first, later));
    }

    #[test]
    fn keys_are_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        identity()
            .ensure(dir.path(), &RootCa::generate().unwrap(), Duration::days(90))
            .unwrap();
        let mode = std::fs::metadata(key_path(dir.path()))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
