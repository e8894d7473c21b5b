//! Renewing this node's certificate: while there is time, and at once when the root is exchanged.

use std::sync::Arc;
use std::time::Duration;

use proto::wire::node_ca_client::NodeCaClient;
use proto::wire::{RenewNodeCertificateRequest, RootMessage, WatchRootRequest};
use rand::Rng;
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

/// Until the managers are asked again about the root; doubles up to [`FOLLOW_MAX`].
const FOLLOW: Duration = Duration::from_secs(1);
/// The longest pause between two questions.
const FOLLOW_MAX: Duration = Duration::from_secs(30);

/// Renews again and again. Never returns.
pub(super) async fn in_time(link: Arc<Link>) {
    tokio::join!(before_the_end(link.clone()), with_the_root(link));
}

/// Follows what the managers say of the root.
async fn with_the_root(link: Arc<Link>) {
    let mut pause = FOLLOW;
    loop {
        match follow(&link).await {
            // The managers are asked again over a connection made with the new certificate, so that they see it.
            Ok(true) => {
                pause = FOLLOW;
                continue;
            }
            Ok(false) => pause = FOLLOW,
            Err(error) => {
                let error = chain(&error);
                tracing::debug!(error, "the managers do not tell of the root");
            }
        }
        let jitter = rand::rng().random_range(0.5..1.0);
        tokio::time::sleep(pause.mul_f64(jitter)).await;
        pause = (pause * 2).min(FOLLOW_MAX);
    }
}

/// Returns whether the certificate or the trust was exchanged; `false` when the managers said no more.
async fn follow(link: &Arc<Link>) -> Result<bool, RemoteError> {
    let refused = |status| RemoteError::Refused(explain(&status));
    let mut authority = NodeCaClient::new(link.channel());
    let mut messages = authority
        .watch_root(WatchRootRequest {})
        .await
        .map_err(refused)?
        .into_inner();
    while let Some(message) = messages.message().await.map_err(refused)? {
        if obey(link, &message).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn obey(link: &Arc<Link>, message: &RootMessage) -> Result<bool, RemoteError> {
    let is_renewed = link.certificate().issuer != message.signer;
    if is_renewed {
        once(link).await?;
        tracing::info!("this node's certificate is renewed under another root");
    }
    let _turn = link.renewing.lock().await;
    let credentials = link.credentials()?;
    if credentials.root == message.trusted {
        return Ok(is_renewed);
    }
    link.replace(&Credentials {
        root: message.trusted.clone(),
        ..credentials
    })?;
    tracing::info!("this node trusts another root");
    Ok(true)
}

async fn before_the_end(link: Arc<Link>) {
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
    let _turn = link.renewing.lock().await;
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
