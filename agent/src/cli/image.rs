//! `image` and `build`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use super::client::{Client, escape, filters, query};
use super::container::{flag, text};
use super::context::Context;
use super::format::{ListFlags, Listing};
use super::table::Table;
use super::{human, inspect, output};

/// `image …`
#[derive(Debug, Subcommand)]
pub(crate) enum ImageVerb {
    /// Build an image from a Dockerfile
    Build(Build),
    /// List images
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Display detailed information on one or more images
    Inspect(inspect::Names),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag {
        /// Name or ID of the image
        source: String,
        /// Name that it gets
        target: String,
    },
    /// Remove one or more images
    #[command(visible_alias = "remove")]
    Rm(Rm),
    /// Load an image from a tar archive or STDIN
    Load(Load),
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save(Save),
    /// Import the contents from a tarball to create a filesystem image
    Import(Import),
    /// Show the history of an image
    History {
        /// Name or ID of the image
        image: String,
    },
    /// Remove unused images
    Prune {
        /// Remove all unused images, not just dangling ones
        #[arg(short, long)]
        all: bool,
        /// Do not prompt for confirmation
        #[arg(short, long)]
        force: bool,
    },
}

impl ImageVerb {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Build(build) => build.run(client).await,
            Self::Ls(ls) => ls.run(client).await,
            Self::Inspect(names) => names.run(client, "images", "/json").await,
            Self::Tag { source, target } => tag(client, &source, &target).await,
            Self::Rm(rm) => rm.run(client).await,
            Self::Load(load) => load.run(client).await,
            Self::Save(save) => save.run(client).await,
            Self::Import(import) => import.run(client).await,
            Self::History { image } => history(client, &image).await,
            Self::Prune { all, force } => prune(client, all, force).await,
        }
    }
}

/// `image build`
#[derive(Debug, Args)]
pub(crate) struct Build {
    /// Name and optionally a tag (format: "name:tag")
    #[arg(short, long)]
    tag: Vec<String>,
    /// Name of the Dockerfile (default: "PATH/Dockerfile")
    #[arg(short, long)]
    file: Option<String>,
    /// Set build-time variables
    #[arg(long)]
    build_arg: Vec<String>,
    /// Set metadata for an image
    #[arg(long)]
    label: Vec<String>,
    /// Set the target build stage to build
    #[arg(long)]
    target: Option<String>,
    /// Do not use cache when building the image
    #[arg(long)]
    no_cache: bool,
    /// Suppress the build output and print image ID on success
    #[arg(short, long)]
    quiet: bool,
    /// Folder that the Dockerfile copies from; "-" for an archive, or a Dockerfile alone, on STDIN
    path: String,
}

impl Build {
    async fn run(self, client: &Client) -> Result<()> {
        let context = Context::open(&self.path, self.file.as_deref())?;
        let arguments = super::run::labels(&self.build_arg);
        let request = BuildRequest {
            tags: self.tag.clone(),
            arguments: arguments
                .into_iter()
                .map(|(name, value)| (name, Some(value)))
                .collect(),
            labels: super::run::labels(&self.label),
            target: self.target.clone(),
            no_cache: self.no_cache,
            quiet: self.quiet,
        };
        request
            .send(client, context, |line| {
                if let Some(text) = line["stream"].as_str() {
                    output::write(1, text.as_bytes());
                }
            })
            .await
    }
}

/// A build by the API.
#[derive(Debug, Clone, Default)]
pub(crate) struct BuildRequest {
    pub(crate) tags: Vec<String>,
    pub(crate) arguments: std::collections::BTreeMap<String, Option<String>>,
    pub(crate) labels: std::collections::BTreeMap<String, String>,
    pub(crate) target: Option<String>,
    pub(crate) no_cache: bool,
    pub(crate) quiet: bool,
}

impl BuildRequest {
    /// Sends the context and hands on what the builder says; an error in it is this call's.
    pub(crate) async fn send(
        &self,
        client: &Client,
        context: Context,
        mut each: impl FnMut(&Value),
    ) -> Result<()> {
        let mut pairs = vec![
            ("version", "1".to_owned()),
            ("dockerfile", context.dockerfile.clone()),
            ("buildargs", json!(self.arguments).to_string()),
            ("labels", json!(self.labels).to_string()),
            ("target", self.target.clone().unwrap_or_default()),
            ("nocache", flag(self.no_cache).to_owned()),
            ("q", flag(self.quiet).to_owned()),
        ];
        pairs.extend(self.tags.iter().map(|tag| ("t", tag.clone())));
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let body = client
            .upload(
                &format!("/build{}", query(&pairs)),
                "application/x-tar",
                context.stream(),
            )
            .await?;
        output::json_lines(body, |line| {
            if let Some(error) = line["error"].as_str() {
                bail!("{error}");
            }
            each(&line);
            Ok(())
        })
        .await
    }
}

/// `image ls`
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Show all images (default hides intermediate images)
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    list: ListFlags,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Only images of this name
    repository: Option<String>,
}

impl Ls {
    pub(crate) async fn run(mut self, client: &Client) -> Result<()> {
        self.list.quiet_first();
        let fixed: Vec<_> = self
            .repository
            .iter()
            .map(|name| ("reference", name.as_str()))
            .collect();
        let filters = filters(&self.list.filter, &fixed)?;
        let list = client
            .get(&format!(
                "/images/json{}",
                query(&[("all", flag(self.all)), ("filters", &filters)])
            ))
            .await?;
        let mut listing = self.listing();
        for image in list.as_array().into_iter().flatten() {
            let id = text(&image["Id"]);
            let id = if self.no_trunc {
                id
            } else {
                human::short(&id).to_owned()
            };
            for (repository, tag) in names(image) {
                let created = image["Created"].as_i64().unwrap_or_default();
                let size = image["Size"].as_i64().unwrap_or_default();
                let digest = digest(image, &repository);
                let (ago, short) = (human::ago_of_unix(created), human::size(size));
                let mut cells = vec![repository, tag, id.clone(), ago, short];
                cells.insert(if self.digests { 2 } else { 5 }, digest);
                cells.extend([human::moment_of_unix(created), human::sum(size)]);
                // What a list of images does not know.
                cells.extend(std::iter::repeat_n("N/A".to_owned(), 3));
                listing.row(cells);
            }
        }
        listing.print(&self.list)
    }

    fn listing(&self) -> Listing {
        let mut columns = vec![
            ("Repository", "REPOSITORY"),
            ("Tag", "TAG"),
            ("ID", "IMAGE ID"),
            ("CreatedSince", "CREATED"),
            ("Size", "SIZE"),
        ];
        let digest = ("Digest", "DIGEST");
        if self.digests {
            columns.insert(2, digest);
        }
        let hidden: &[_] = if self.digests { &[] } else { &[digest] };
        Listing::new(&columns)
            .more(hidden)
            .more(&[("CreatedAt", "CREATED AT"), ("VirtualSize", "SIZE")])
            .more(&[
                ("Containers", "CONTAINERS"),
                ("SharedSize", "SHARED SIZE"),
                ("UniqueSize", "UNIQUE SIZE"),
            ])
    }
}

/// The digest by which an image is known in a repository.
fn digest(image: &Value, repository: &str) -> String {
    let digests = image["RepoDigests"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let mut of_name = digests
        .filter_map(|digest| digest.split_once('@'))
        .filter(|(name, _)| *name == repository);
    of_name
        .next()
        .map_or_else(|| "<none>".to_owned(), |(_, digest)| digest.to_owned())
}

/// Repository and tag of each of an image's names.
fn names(image: &Value) -> Vec<(String, String)> {
    let none = || "<none>".to_owned();
    let split = |name: String| match name.rsplit_once(':') {
        Some((repository, tag)) => (repository.to_owned(), tag.to_owned()),
        None => (name, none()),
    };
    let tags: Vec<_> = image["RepoTags"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|tag| split(text(tag)))
        .collect();
    if tags.is_empty() {
        vec![(none(), none())]
    } else {
        tags
    }
}

async fn tag(client: &Client, source: &str, target: &str) -> Result<()> {
    let (repository, tag) = match target.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (target, "latest"),
    };
    let query = query(&[("repo", repository), ("tag", tag)]);
    client
        .act(&format!("/images/{}/tag{query}", escape(source)))
        .await
        .map(drop)
}

/// `image rm`
#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Force removal of the image
    #[arg(short, long)]
    force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    no_prune: bool,
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Rm {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let query = query(&[("force", flag(self.force)), ("noprune", flag(self.no_prune))]);
        let mut failed = false;
        for image in &self.images {
            match client.delete(&format!("/images/{}{query}", escape(image))).await {
                Ok(removed) => print_removed(&removed),
                Err(error) => {
                    eprintln!("Error: {error:#}");
                    failed = true;
                }
            }
        }
        if failed {
            Err(super::Silent(1).into())
        } else {
            Ok(())
        }
    }
}

fn print_removed(list: &Value) {
    for entry in list.as_array().into_iter().flatten() {
        for kind in ["Untagged", "Deleted"] {
            if let Some(name) = entry[kind].as_str() {
                println!("{kind}: {name}");
            }
        }
    }
}

/// `image load`
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// Read from tar archive file, instead of STDIN
    #[arg(short, long)]
    input: Option<PathBuf>,
    /// Suppress the load output
    #[arg(short, long)]
    quiet: bool,
}

impl Load {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let path = format!("/images/load{}", query(&[("quiet", flag(self.quiet))]));
        let body = match &self.input {
            Some(file) => {
                client
                    .upload(&path, "application/x-tar", file_stream(file).await?)
                    .await?
            }
            None => {
                client
                    .upload(&path, "application/x-tar", ReaderStream::new(tokio::io::stdin()))
                    .await?
            }
        };
        output::print_progress(body, false).await
    }
}

/// `image save`
#[derive(Debug, Args)]
pub(crate) struct Save {
    /// Write to a file, instead of STDOUT
    #[arg(short, long)]
    output: Option<PathBuf>,
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Save {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        use std::io::IsTerminal;
        if self.output.is_none() && std::io::stdout().is_terminal() {
            bail!("cowardly refusing to save to a terminal. Use the -o flag or redirect");
        }
        let names: Vec<(&str, &str)> = self.images.iter().map(|name| ("names", name.as_str())).collect();
        let mut body = client.stream(&format!("/images/get{}", query(&names))).await?;
        let mut to: Box<dyn tokio::io::AsyncWrite + Unpin> = match &self.output {
            Some(file) => Box::new(
                tokio::fs::File::create(file)
                    .await
                    .with_context(|| format!("create {}", file.display()))?,
            ),
            None => Box::new(tokio::io::stdout()),
        };
        while let Some(bytes) = output::data(&mut body).await? {
            to.write_all(&bytes).await.context("write the archive")?;
        }
        to.flush().await.context("write the archive")
    }
}

/// `image import`
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long)]
    change: Vec<String>,
    /// Set commit message for imported image
    #[arg(short, long)]
    message: Option<String>,
    /// File, or - for STDIN
    source: PathBuf,
    /// Name of the image
    reference: Option<String>,
}

impl Import {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let reference = self.reference.clone().unwrap_or_default();
        let (repository, tag) = match reference.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            _ => (reference.as_str(), ""),
        };
        let message = self.message.clone().unwrap_or_default();
        let mut pairs = vec![
            ("fromSrc", "-"),
            ("repo", repository),
            ("tag", tag),
            ("message", &message),
        ];
        pairs.extend(self.change.iter().map(|change| ("changes", change.as_str())));
        let path = format!("/images/create{}", query(&pairs));
        let body = if self.source == Path::new("-") {
            client
                .upload(&path, "text/plain", ReaderStream::new(tokio::io::stdin()))
                .await?
        } else {
            client
                .upload(&path, "text/plain", file_stream(&self.source).await?)
                .await?
        };
        output::print_progress(body, false).await
    }
}

async fn file_stream(file: &Path) -> Result<ReaderStream<tokio::fs::File>> {
    let opened = tokio::fs::File::open(file)
        .await
        .with_context(|| format!("open {}", file.display()))?;
    Ok(ReaderStream::with_capacity(opened, 256 * 1024))
}

async fn history(client: &Client, image: &str) -> Result<()> {
    let list = client.get(&format!("/images/{}/history", escape(image))).await?;
    let mut table = Table::new(&["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"]);
    for entry in list.as_array().into_iter().flatten() {
        let id = text(&entry["Id"]);
        let created = human::ago_of_unix(entry["Created"].as_i64().unwrap_or_default());
        let size = human::size(entry["Size"].as_i64().unwrap_or_default());
        let by = human::ellipsis(&text(&entry["CreatedBy"]), 45);
        table.row([
            human::short(&id).to_owned(),
            created,
            by,
            size,
            text(&entry["Comment"]),
        ]);
    }
    table.print();
    Ok(())
}

async fn prune(client: &Client, all: bool, force: bool) -> Result<()> {
    super::confirm("This will remove unused images.", force)?;
    let filters = json!({"dangling": [if all { "false" } else { "true" }]}).to_string();
    let freed = prune_images(client, &filters).await?;
    println!("Total reclaimed space: {}", human::sum(freed));
    Ok(())
}

/// Removes unused images and names them; the bytes that came free.
pub(crate) async fn prune_images(client: &Client, filters: &str) -> Result<i64> {
    let answer = client
        .act(&format!("/images/prune{}", query(&[("filters", filters)])))
        .await?;
    let removed = &answer["ImagesDeleted"];
    if removed.as_array().is_some_and(|list| !list.is_empty()) {
        println!("Deleted Images:");
        for entry in removed.as_array().into_iter().flatten() {
            for (field, word) in [("Untagged", "untagged"), ("Deleted", "deleted")] {
                if let Some(name) = entry[field].as_str() {
                    println!("{word}: {name}");
                }
            }
        }
        println!();
    }
    Ok(answer["SpaceReclaimed"].as_i64().unwrap_or_default())
}
