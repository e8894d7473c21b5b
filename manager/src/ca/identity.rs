//! This node's certificate in files: `swarm-root-ca.crt`, `swarm-node.crt`, `swarm-node.key`, readable by root alone.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use proto::spec::NodeRole;
use proto::{ClusterId, NodeId};
use time::{Duration, OffsetDateTime};
use x509_parser::pem::parse_x509_pem;

use super::root::role_name;
use super::{CaError, Certificate, RootCa, Signed};
use crate::files::{self, FileError};
use crate::vault::{AtRest, Purpose, UnlockKey, Vault, is_sealed};

const ROOT: &str = "swarm-root-ca.crt";

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
    /// The certificate and key in the directory, made anew if they are missing, of somebody else, signed by another root,
    /// or past half their life. The key is sealed while the manager locks.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn ensure(
        &self,
        dir: &Path,
        root: &RootCa,
        life: Duration,
        vault: &Vault,
    ) -> Result<Signed, CaError> {
        let found = read(dir, &vault.at_rest())?;
        let root_path = dir.join("swarm-root-ca.crt");
        let trusts = bytes(&root_path)?.is_some_and(|kept| kept == root.cert().as_bytes());
        let (signer, now) = (root.signer_id()?, OffsetDateTime::now_utc());
        if !trusts {
            files::make_dir(dir)?;
            files::replace(&root_path, |writer| writer.write_all(root.cert().as_bytes()))?;
        }
        if let Some(signed) = found.filter(|signed| self.is_good(signed, &signer, now)) {
            return Ok(signed);
        }
        let signed = root.issue(&self.cluster, &self.node, self.role, life)?;
        save(dir, root.cert(), &signed, vault)?;
        Ok(signed)
    }

    /// The root, certificate and key in the directory, whatever they say; `None` if one is missing.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn find(dir: &Path, vault: &Vault) -> Result<Option<(String, Signed)>, CaError> {
        let root = bytes(&dir.join(ROOT))?.and_then(|bytes| String::from_utf8(bytes).ok());
        Ok(root.zip(read(dir, &vault.at_rest())?))
    }

    /// Keeps what another manager has signed. The root is PEM.
    ///
    /// # Errors
    /// [`CaError::File`].
    pub fn adopt(dir: &Path, root: &str, signed: &Signed, vault: &Vault) -> Result<(), CaError> {
        save(dir, root, signed, vault)
    }

    /// Removes the certificate and the key, and leaves the root.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn shed(dir: &Path) -> Result<(), FileError> {
        for path in [cert_path(dir), key_path(dir)] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(files::error("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Wraps the keys at rest as the cluster says: by its unlock key, or by one that lies beside them. The node's key is
    /// sealed before the unlock key goes and opened after it has come, so that a crash in between locks nobody out.
    ///
    /// # Errors
    /// [`CaError::File`], [`CaError::Vault`].
    pub fn follow(dir: &Path, vault: &Vault, unlock_key: Option<&UnlockKey>) -> Result<(), CaError> {
        let at_rest = vault.at_rest();
        let key = read_key(dir, &at_rest)?;
        let is_sealed = key.as_ref().is_some_and(|(_, sealed)| *sealed);
        let save = |cover: Option<&AtRest>| match &key {
            Some((text, _)) if is_sealed != cover.is_some() => save_key(dir, text, cover),
            _ => Ok(()),
        };
        if unlock_key.is_some() {
            save(Some(&at_rest))?;
        }
        if vault.follow(unlock_key)? {
            tracing::info!(locks = vault.locks(), "the manager's keys are wrapped anew");
        }
        if unlock_key.is_none() {
            save(None)?;
        }
        Ok(())
    }

    fn is_good(&self, signed: &Signed, signer: &[u8], now: OffsetDateTime) -> bool {
        let Ok((_, pem)) = parse_x509_pem(signed.cert.as_bytes()) else {
            return false;
        };
        let Ok(cert) = pem.parse_x509() else { return false };
        if !Certificate::read(&pem.contents).is_ok_and(|read| read.issuer == signer) {
            return false;
        }
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

fn save(dir: &Path, root: &str, signed: &Signed, vault: &Vault) -> Result<(), CaError> {
    files::make_dir(dir)?;
    // The certificate last: without it, the next start makes both again.
    files::replace(&dir.join(ROOT), |writer| writer.write_all(root.as_bytes()))?;
    save_key(dir, &signed.key, vault.locks().then(|| vault.at_rest()).as_ref())?;
    files::replace(&cert_path(dir), |writer| writer.write_all(signed.cert.as_bytes()))?;
    Ok(())
}

fn cert_path(dir: &Path) -> PathBuf {
    dir.join("swarm-node.crt")
}

fn key_path(dir: &Path) -> PathBuf {
    dir.join("swarm-node.key")
}

fn read(dir: &Path, at_rest: &AtRest) -> Result<Option<Signed>, CaError> {
    // What is no text is no certificate either.
    let cert = bytes(&cert_path(dir))?.and_then(|bytes| String::from_utf8(bytes).ok());
    let key = read_key(dir, at_rest)?;
    Ok(cert.zip(key).map(|(cert, (key, _))| Signed { cert, key }))
}

/// The key, and whether it is sealed.
fn read_key(dir: &Path, at_rest: &AtRest) -> Result<Option<(String, bool)>, CaError> {
    let Some(bytes) = bytes(&key_path(dir))? else {
        return Ok(None);
    };
    let sealed = is_sealed(&bytes);
    let text = match sealed {
        true => at_rest.open_once(Purpose::NodeKey, &bytes),
        false => Some(bytes),
    };
    let text = text.and_then(|text| String::from_utf8(text).ok());
    Ok(text.map(|text| (text, sealed)))
}

fn save_key(dir: &Path, key: &str, cover: Option<&AtRest>) -> Result<(), CaError> {
    files::replace(&key_path(dir), |writer| match cover {
        Some(at_rest) => writer.write_all(&at_rest.seal_once(Purpose::NodeKey, key.as_bytes())?),
        None => writer.write_all(key.as_bytes()),
    })?;
    Ok(())
}

fn bytes(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(files::error("read", path)(error)),
    }
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
        let vault = Vault::create(dir.path(), false).unwrap();
        let (root, life) = (RootCa::generate().unwrap(), Duration::days(90));
        let first = identity().ensure(dir.path(), &root, life, &vault).unwrap();
        assert_eq!(
            identity().ensure(dir.path(), &root, life, &vault).unwrap().cert,
            first.cert
        );
        let worker = Identity {
            role: NodeRole::Worker,
            ..identity()
        };
        assert_ne!(
            worker.ensure(dir.path(), &root, life, &vault).unwrap().cert,
            first.cert
        );
        std::fs::write(cert_path(dir.path()), "rubbish").unwrap();
        assert!(
            identity()
                .ensure(dir.path(), &root, life, &vault)
                .unwrap()
                .cert
                .contains("CERTIFICATE")
        );
        let later = OffsetDateTime::now_utc() + Duration::days(50);
        let signer = root.signer_id().unwrap();
        let good = |now| identity().is_good(&first, &signer, now);
        assert!(good(OffsetDateTime::now_utc()) && !good(later));
        let other = RootCa::generate().unwrap().signer_id().unwrap();
        assert!(!identity().is_good(&first, &other, OffsetDateTime::now_utc()));
    }

    #[test]
    fn keys_are_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::create(dir.path(), false).unwrap();
        identity()
            .ensure(
                dir.path(),
                &RootCa::generate().unwrap(),
                Duration::days(90),
                &vault,
            )
            .unwrap();
        let mode = std::fs::metadata(key_path(dir.path()))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
