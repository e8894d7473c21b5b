//! Renewing this node's certificate while there is time.

use std::sync::Arc;
use std::time::Duration;

use proto::wire::RenewNodeCertificateRequest;
use proto::wire::node_ca_client::NodeCaClient;
use rcgen::KeyPair;

use super::channel::{Link, certificate};
use super::record::Credentials;
use super::{RemoteError, explain, join};
use crate::ca::CaError;
use crate::files::chain;
use crate::manager::until;

/// Until the next attempt after the first that failed; doubles up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(5);
/// The longest pause between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(600);

/// Renews again and again. Never returns.
pub(super) async fn in_time(link: Arc<Link>) {
    loop {
        until(link.certificate().renewal()).await;
        let mut pause = RETRY;
        while let Err(error) = once(&link).await {
            let error = chain(&error);
            tracing::warn!(error, "this node's certificate could not be renewed");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
        tracing::info!(until = %link.certificate().not_after, "this node's certificate is renewed");
    }
}

/// A new key and a new certificate for it.
pub(super) async fn once(link: &Arc<Link>) -> Result<(), RemoteError> {
    let made = |error| RemoteError::Ca(CaError::Make(error));
    let key = KeyPair::generate().map_err(made)?;
    let csr = join::request(&key).map_err(made)?;
    let mut authority = NodeCaClient::new(link.channel());
    let renewed = authority
        .renew_node_certificate(RenewNodeCertificateRequest { csr })
        .await;
    let renewed = renewed.map_err(|status| RemoteError::Refused(explain(&status)))?;
    let credentials = Credentials {
        cert: renewed.into_inner().certificate,
        key: key.serialize_pem(),
        ..link.credentials()?
    };
    let (old, new) = (link.certificate(), certificate(&credentials)?);
    if (&new.cluster, &new.node) != (&old.cluster, &old.node) {
        return Err(RemoteError::Refused(
            "the renewed certificate is another node's".to_owned(),
        ));
    }
    link.replace(&credentials)
}
