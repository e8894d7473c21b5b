//! Real files in a folder, for tests of files that name others.

use crate::compose::{Loaded, Variables, load};

/// Files by name; the first is loaded with the variable `OUTER`. `DIR` in results stands for their folder.
pub(super) struct Files(tempfile::TempDir);

impl Files {
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = folder.path().canonicalize().unwrap().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        Self(folder)
    }

    pub(super) fn load(&self, names: &[&str]) -> Result<Loaded, String> {
        let root = self.0.path().canonicalize().unwrap();
        let files: Vec<_> = names.iter().map(|name| root.join(name)).collect();
        let variables = Variables::from([("OUTER".to_owned(), "outer".to_owned())]);
        load(&files, &variables).map_err(|error| error.to_string().replace(&*root.to_string_lossy(), "DIR"))
    }

    pub(super) fn yaml(&self, names: &[&str]) -> String {
        let root = self.0.path().canonicalize().unwrap();
        let text = self.load(names).unwrap().to_yaml();
        text.replace(&*root.to_string_lossy(), "DIR")
    }

    pub(super) fn error(&self, names: &[&str]) -> String {
        match self.load(names) {
            Ok(loaded) => panic!("loaded: {}", loaded.to_yaml()),
            Err(error) => error,
        }
    }
}

/// What is said of `main.yml` beside the others.
pub(super) fn error(main: &str, others: &[(&str, &str)]) -> String {
    let mut files = vec![("main.yml", main)];
    files.extend_from_slice(others);
    Files::new(&files).error(&["main.yml"])
}
