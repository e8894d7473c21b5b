//! The kernels to test with: Debian's packages, unpacked by `.ci/kernels` to `target/vm/<package>`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::workspace;

/// A kernel and its modules.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Such as `6.1.0-56-cloud-amd64`.
    pub release: String,
    /// What qemu boots.
    pub image: PathBuf,
    /// `lib/modules/<release>` of its package.
    pub modules: PathBuf,
}

/// Every kernel that was fetched, the oldest first. None is an error: there would be nothing to test.
pub fn kernels() -> Result<Vec<Kernel>> {
    let folder = workspace().join("target/vm");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).into_iter().flatten() {
        found.extend(kernel(&entry?.path())?);
    }
    found.sort_by_key(|kernel| numbers(&kernel.release));
    ensure!(
        !found.is_empty(),
        "no kernel in {}: run .ci/kernels, which fetches Debian's linux-image-cloud-amd64",
        folder.display()
    );
    Ok(found)
}

/// The numbers that a release begins with.
fn numbers(release: &str) -> Vec<u32> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|word| word.parse().ok())
        .collect()
}

fn kernel(package: &Path) -> Result<Option<Kernel>> {
    let modules = ["lib/modules", "usr/lib/modules"].map(|folder| package.join(folder));
    let Some(modules) = modules.into_iter().find(|folder| folder.is_dir()) else {
        return Ok(None);
    };
    let entry = std::fs::read_dir(&modules)?
        .next()
        .context("a package without modules")??;
    let release = entry.file_name().to_string_lossy().into_owned();
    let image = package.join(format!("boot/vmlinuz-{release}"));
    ensure!(image.is_file(), "{} is missing", image.display());
    Ok(Some(Kernel {
        release,
        image,
        modules: entry.path(),
    }))
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn six_one_is_older_than_six_twelve() {
        assert_eq!(numbers("6.1.0-56-cloud-amd64"), [6, 1, 0, 56]);
        assert!(numbers("6.1.0-56-cloud-amd64") < numbers("6.12.117+deb12-cloud-amd64"));
    }
}
