//! Exchanging the root without a moment in which somebody is not believed.
//!
//! ```text
//! begin    the old root vouches for the new one (cross-signing); certificates are signed by the new one and carry that
//!          certificate along, so that whoever trusts the old root believes them. Everybody renews at once.
//! finish   every node has shown a certificate of the new root: it alone is trusted now. Join tokens change with it.
//! ```
//! Nobody ever needs to trust two roots. The cross-signed certificates are carried on afterwards: a node that has not heard
//! of the end yet still believes its managers, also when the next exchange has begun meanwhile.

use std::sync::Arc;

use proto::object::{NextRoot, TlsInfo};
use proto::spec::CaConfig;
use proto::{Cluster, Node};
use tokio::sync::mpsc;

use super::{CaError, Certificate, JoinToken, RootCa, cross};
use crate::files::chain;
use crate::state::{Event, Filter, Kind, Reader, Store, StoreError};

/// Begins an exchange, if the settings ask for one that is not under way. The root in the settings is taken out of them: it
/// is kept with the authority.
pub(crate) fn ask(cluster: &mut Cluster, before: &CaConfig) -> Result<(), CaError> {
    let Some(asked) = &mut cluster.spec.ca_config else {
        return Ok(());
    };
    let (cert, key) = (
        std::mem::take(&mut asked.signing_ca_cert),
        std::mem::take(&mut asked.signing_ca_key),
    );
    let forced = asked.force_rotate != before.force_rotate;
    let brought = match (cert.trim().is_empty(), key.trim().is_empty()) {
        (true, true) => None,
        (false, false) => Some((cert, key)),
        (false, true) if !forced => return Ok(()),
        _ => return Err(CaError::Root("both the certificate and the key are needed")),
    };
    match brought {
        Some((cert, key)) => {
            cross::check(&cert, &key)?;
            begin(cluster, &RootCa::from_parts(cert, key.into_inner()))
        }
        None if forced => begin(cluster, &RootCa::generate()?),
        None => Ok(()),
    }
}

fn begin(cluster: &mut Cluster, new: &RootCa) -> Result<(), CaError> {
    let Some(object) = &mut cluster.root_ca else {
        return Err(CaError::Read("root certificate"));
    };
    let trusted = RootCa::from_parts(object.cert.clone(), object.key.to_string());
    object.next = match new.cert().trim() == trusted.cert().trim() {
        // Back to the one that is trusted.
        true => None,
        false => Some(NextRoot {
            cross: cross::follow(cross::sign(&trusted, new.cert(), new.own_key())?, &object.cross),
            cert: new.cert().to_owned(),
            key: new.own_key().into(),
        }),
    };
    cluster.root_rotation_in_progress = object.next.is_some();
    cluster.tls_info = RootCa::from_object(object).tls_info()?;
    Ok(())
}

/// The new root alone is trusted from now on.
pub(crate) fn finish(cluster: &mut Cluster) {
    let Some(object) = &mut cluster.root_ca else {
        return;
    };
    let Some(next) = object.next.take() else { return };
    (object.cert, object.key, object.cross) = (next.cert, next.key, next.cross);
    cluster.root_rotation_in_progress = false;
    let token = || JoinToken::generate(object.cert.as_bytes()).to_string().into();
    (cluster.join_tokens.worker, cluster.join_tokens.manager) = (token(), token());
}

/// Ends exchanges whose every node is there. Runs on the manager that leads.
pub(crate) async fn run(store: Store) -> Result<(), StoreError> {
    let mut events = store.watch(Filter::kinds(&[Kind::Cluster, Kind::Node]).only(matters));
    loop {
        if store.view(|tx| is_done(&tx)) {
            store
                .update(|tx| {
                    let cluster = tx.all::<Cluster>().into_iter().next();
                    let Some(cluster) = cluster.filter(|_| is_done(tx)) else {
                        return Ok(());
                    };
                    let mut cluster = Cluster::clone(&cluster);
                    finish(&mut cluster);
                    tracing::info!("the root certificate is exchanged");
                    tx.update(cluster)
                })
                .await?;
        }
        if events.next().await.is_none() {
            return Ok(());
        }
    }
}

/// Most changes of nodes are their states.
fn matters(event: &Event) -> bool {
    match event {
        Event::Node(change) => {
            let info = |node: Option<&Arc<Node>>| node.map(|node| node.description.tls_info.clone());
            info(change.old()) != info(change.new_object())
        }
        _ => true,
    }
}

fn is_done(tx: &impl Reader) -> bool {
    let Some(cluster) = tx.all::<Cluster>().into_iter().next() else {
        return false;
    };
    let wanted = &cluster.tls_info;
    cluster.root_rotation_in_progress
        && tx
            .all::<Node>()
            .iter()
            .all(|node| has(&node.description.tls_info, wanted))
}

fn has(shown: &TlsInfo, wanted: &TlsInfo) -> bool {
    shown.cert_issuer_public_key == wanted.cert_issuer_public_key
        && shown.cert_issuer_subject == wanted.cert_issuer_subject
}

/// Where connections tell which certificate a node has shown.
pub(crate) type Sightings = mpsc::UnboundedSender<Arc<Certificate>>;

/// Writes down who signed the certificates that nodes show, where that has changed. Ends when nobody can tell any more.
pub(crate) fn write_down(store: Store) -> Sightings {
    let (sender, mut seen) = mpsc::unbounded_channel::<Arc<Certificate>>();
    tokio::spawn(async move {
        while let Some(certificate) = seen.recv().await {
            if let Err(error) = note(&store, &certificate).await {
                // A manager that follows cannot write: the node will show it to the leader, too.
                let error = chain(&error);
                tracing::debug!(node.id = %certificate.node, error, "a node's certificate was not noted");
            }
        }
    });
    sender
}

/// Whether there is nothing to note about a node's certificate.
pub(crate) fn is_known(store: &Store, certificate: &Certificate) -> bool {
    store.view(|tx| {
        let cluster = tx.all::<Cluster>().into_iter().next();
        let info = cluster.and_then(|cluster| info_of(&cluster, certificate));
        let node = tx.get::<Node>(&certificate.node);
        info.is_none() || node.is_none_or(|node| Some(&node.description.tls_info) == info.as_ref())
    })
}

/// Notes who signed a node's certificate.
pub(crate) async fn note(store: &Store, certificate: &Certificate) -> Result<(), StoreError> {
    if is_known(store, certificate) {
        return Ok(());
    }
    store
        .update(|tx| {
            let cluster = tx.all::<Cluster>().into_iter().next();
            let info = cluster.and_then(|cluster| info_of(&cluster, certificate));
            match info {
                Some(info) => tx.modify(&certificate.node, |node: &mut Node| {
                    node.description.tls_info = info
                }),
                None => Ok(()),
            }
        })
        .await
}

/// What the API says of a node with this certificate, if one of the cluster's roots has signed it.
fn info_of(cluster: &Cluster, certificate: &Certificate) -> Option<TlsInfo> {
    let object = cluster.root_ca.as_ref()?;
    let trusted = object.cert.as_str();
    let roots = [Some(trusted), object.next.as_ref().map(|next| next.cert.as_str())];
    let signer = roots
        .into_iter()
        .flatten()
        .find(|root| cross::read(root).is_ok_and(|root| root.key_id == certificate.issuer))?;
    RootCa::from_parts(signer.to_owned(), String::new())
        .tls_info()
        .ok()
        .map(|info| TlsInfo {
            trust_root: trusted.to_owned(),
            ..info
        })
}
