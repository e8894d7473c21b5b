//! `swarm ca`: the root certificate, and exchanging it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use proto::object::TlsInfo;
use proto::{Cluster, Node};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::client::Client;
use super::swarm_settings::refuse_external;
use crate::compose;

/// Between two looks at the progress: the Docker API has no event for it.
const LOOK: Duration = Duration::from_millis(200);

/// `swarm ca`
#[derive(Debug, Args)]
pub(crate) struct Ca {
    /// Path to the PEM-formatted root CA certificate to use for the new cluster
    #[arg(long, value_name = "FILE", default_value = "")]
    ca_cert: String,
    /// Path to the PEM-formatted root CA key to use for the new cluster
    #[arg(long, value_name = "FILE", default_value = "")]
    ca_key: String,
    /// Validity period for node certificates (ns|us|ms|s|m|h)
    #[arg(long)]
    cert_expiry: Option<String>,
    /// Exit immediately instead of waiting for the root rotation to converge
    #[arg(short, long)]
    detach: bool,
    /// Specifications of one or more certificate signing endpoints
    #[arg(long)]
    external_ca: Vec<String>,
    /// Suppress progress output
    #[arg(short, long)]
    quiet: bool,
    /// Rotate the swarm CA - if no certificate or key are provided, new ones will be generated
    #[arg(long)]
    rotate: bool,
}

impl Ca {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        refuse_external(&self.external_ca)?;
        if !self.rotate {
            self.only_with_rotate()?;
            return show(client).await;
        }
        self.rotate(client).await?;
        if self.detach {
            return Ok(());
        }
        converge(client, self.quiet).await?;
        show(client).await
    }

    fn only_with_rotate(&self) -> Result<()> {
        let given = [
            ("ca-cert", !self.ca_cert.is_empty()),
            ("ca-key", !self.ca_key.is_empty()),
            ("cert-expiry", self.cert_expiry.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) => bail!("`--{flag}` flag requires the `--rotate` flag to update the CA"),
            None => Ok(()),
        }
    }

    async fn rotate(&self, client: &Client) -> Result<()> {
        let swarm = client.get("/swarm").await?;
        let mut spec = swarm["Spec"].clone();
        let read = |path: &str| match path {
            "" => Ok(String::new()),
            path => std::fs::read_to_string(path).with_context(|| format!("read {path}")),
        };
        if let Some(expiry) = &self.cert_expiry {
            spec["CAConfig"]["NodeCertExpiry"] =
                json!(compose::duration(expiry).map_err(anyhow::Error::msg)?);
        }
        spec["CAConfig"]["SigningCACert"] = json!(read(&self.ca_cert)?);
        spec["CAConfig"]["SigningCAKey"] = json!(read(&self.ca_key)?);
        let rounds = spec["CAConfig"]["ForceRotate"].as_u64().unwrap_or(0);
        spec["CAConfig"]["ForceRotate"] = json!(rounds + 1);
        let path = format!("/swarm/update?version={}", swarm["Version"]["Index"]);
        client.post(&path, &spec).await.map(drop)
    }
}

async fn show(client: &Client) -> Result<()> {
    let swarm: Cluster = client.fetch("/swarm").await?;
    if swarm.tls_info.trust_root.is_empty() {
        bail!("No CA information available");
    }
    println!("{}", swarm.tls_info.trust_root.trim());
    Ok(())
}

/// Waits until every node has a certificate of the new root, and it alone is trusted. Shows what has changed.
async fn converge(client: &Client, quiet: bool) -> Result<()> {
    let mut shown = None;
    loop {
        let swarm: Cluster = client.fetch("/swarm").await?;
        let nodes: Vec<Node> = client.fetch("/nodes").await?;
        let progress = Progress::of(&swarm, &nodes);
        if !quiet && shown.as_ref() != Some(&progress) {
            progress.print(shown.is_none());
        }
        if progress.is_complete() {
            return Ok(());
        }
        shown = Some(progress);
        tokio::time::sleep(LOOK).await;
    }
}

/// How far the nodes are.
#[derive(Debug, PartialEq, Eq)]
struct Progress {
    digest: String,
    nodes: usize,
    certificates: usize,
    roots: usize,
    under_way: bool,
}

impl Progress {
    fn of(swarm: &Cluster, nodes: &[Node]) -> Self {
        let wanted = &swarm.tls_info;
        let count = |is: &dyn Fn(&TlsInfo) -> bool| {
            let infos = nodes.iter().map(|node| &node.description.tls_info);
            infos.filter(|info| is(info)).count()
        };
        let certificates = count(&|info| {
            info.cert_issuer_public_key == wanted.cert_issuer_public_key
                && info.cert_issuer_subject == wanted.cert_issuer_subject
        });
        let under_way = swarm.root_rotation_in_progress;
        // Nobody trusts the new root before all are signed by it.
        let roots = match under_way {
            true => 0,
            false => count(&|info| info.trust_root == wanted.trust_root),
        };
        Self {
            digest: hex::encode(Sha256::digest(&wanted.trust_root)),
            nodes: nodes.len(),
            certificates,
            roots,
            under_way,
        }
    }

    fn is_complete(&self) -> bool {
        !self.under_way && self.certificates == self.nodes && self.roots == self.nodes
    }

    fn print(&self, first: bool) {
        if first {
            println!("desired root digest: sha256:{}", self.digest);
        }
        println!(
            "  rotated TLS certificates: {}/{} nodes",
            self.certificates, self.nodes
        );
        println!("  rotated CA certificates:  {}/{} nodes", self.roots, self.nodes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(root: &str, issuer: &str) -> TlsInfo {
        TlsInfo {
            trust_root: root.into(),
            cert_issuer_subject: "swarm-ca".into(),
            cert_issuer_public_key: issuer.into(),
        }
    }

    #[test]
    fn the_rotation_is_complete_when_every_node_has_both() {
        let node = |info: TlsInfo| {
            let mut node = Node::default();
            node.description.tls_info = info;
            node
        };
        let mut swarm = Cluster {
            tls_info: info("new", "new"),
            root_rotation_in_progress: true,
            ..Cluster::default()
        };
        let nodes = [node(info("old", "new")), node(info("old", "old"))];
        let half = Progress::of(&swarm, &nodes);
        assert_eq!((half.certificates, half.roots, half.is_complete()), (1, 0, false));
        swarm.root_rotation_in_progress = false;
        let nodes = [node(info("new", "new")), node(info("old", "new"))];
        let late = Progress::of(&swarm, &nodes);
        assert_eq!((late.certificates, late.roots, late.is_complete()), (2, 1, false));
        let nodes = [node(info("new", "new")), node(info("new", "new"))];
        assert!(Progress::of(&swarm, &nodes).is_complete());
    }
}
