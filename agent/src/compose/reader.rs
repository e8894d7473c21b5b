//! Reading a tree of nodes with types. Each value knows its path, so that an error can name it.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::Variables;
use super::error::ComposeError;
use super::units;
use super::yaml::{Node, Value};

/// What reading needs beside the tree: where relative paths start, the variables, and where warnings go.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) directory: PathBuf,
    pub(crate) variables: Variables,
    warnings: RefCell<Vec<String>>,
}

impl Context {
    pub(crate) fn new(directory: PathBuf, variables: Variables) -> Self {
        Self {
            directory,
            variables,
            warnings: RefCell::default(),
        }
    }

    pub(crate) fn into_warnings(self) -> Vec<String> {
        self.warnings.into_inner()
    }
}

/// A value at its path.
#[derive(Debug, Clone)]
pub(crate) struct At<'t> {
    node: &'t Node,
    path: Arc<str>,
    pub(crate) context: &'t Context,
}

type Read<T> = Result<T, ComposeError>;

impl<'t> At<'t> {
    pub(crate) fn root(node: &'t Node, context: &'t Context) -> Self {
        Self {
            node,
            path: Arc::from(""),
            context,
        }
    }

    /// A node that was taken out of its tree, at the path that it had there.
    pub(crate) fn under(node: &'t Node, path: &str, context: &'t Context) -> Self {
        Self {
            node,
            path: Arc::from(path),
            context,
        }
    }

    /// The file that the value stands in.
    pub(crate) fn file(&self) -> &'t Path {
        self.node.place.file()
    }

    fn child(&self, node: &'t Node, path: String) -> Self {
        Self {
            node,
            path: Arc::from(path),
            context: self.context,
        }
    }

    /// An error about this value.
    pub(crate) fn wrong(&self, problem: impl Into<String>) -> ComposeError {
        let path = if self.path.is_empty() {
            Arc::from("the file")
        } else {
            Arc::clone(&self.path)
        };
        ComposeError::Value {
            place: self.node.place.clone(),
            path,
            problem: problem.into(),
        }
    }

    /// A warning about this value.
    pub(crate) fn warn(&self, problem: &str) {
        self.context
            .warnings
            .borrow_mut()
            .push(format!("{}: {}: {problem}", self.node.place, self.path));
    }

    pub(crate) fn is_null(&self) -> bool {
        self.node.is_null()
    }

    pub(crate) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    pub(crate) fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    fn expected<T>(&self, what: &str) -> Read<T> {
        Err(self.wrong(format!("this must be {what}, but it is {}", self.node.kind())))
    }

    /// Text. A bare number or truth value is refused where text is wanted: quoting it says what is meant.
    pub(crate) fn text(&self) -> Read<String> {
        match &self.node.value {
            Value::Scalar { text, .. } if self.node.kind() == "text" => Ok(text.clone()),
            _ => self.expected("text"),
        }
    }

    /// Text, a number or a truth value, as text.
    pub(crate) fn scalar(&self) -> Read<String> {
        match &self.node.value {
            Value::Scalar { text, .. } if !self.is_null() => Ok(text.clone()),
            _ => self.expected("text or a number"),
        }
    }

    /// Anything that its text can be parsed as.
    pub(crate) fn parsed<T: FromStr>(&self, what: &str) -> Read<T> {
        let Value::Scalar { text, .. } = &self.node.value else {
            return self.expected(what);
        };
        text.trim()
            .parse()
            .map_err(|_| self.wrong(format!("this must be {what}, but it is {text:?}")))
    }

    pub(crate) fn truth(&self) -> Read<bool> {
        self.parsed("true or false")
    }

    pub(crate) fn unsigned(&self) -> Read<u64> {
        self.parsed("a whole number that is not negative")
    }

    pub(crate) fn integer(&self) -> Read<i64> {
        self.parsed("a whole number")
    }

    pub(crate) fn ratio(&self) -> Read<f32> {
        self.parsed("a number")
    }

    /// A word of the API, such as `on-failure`.
    pub(crate) fn word<T: FromStr<Err = proto::spec::UnknownWord>>(&self) -> Read<T> {
        self.text()?
            .parse()
            .map_err(|error: proto::spec::UnknownWord| self.wrong(error.to_string()))
    }

    /// Nanoseconds.
    pub(crate) fn duration(&self) -> Read<i64> {
        units::duration(&self.scalar()?).map_err(|problem| self.wrong(problem))
    }

    /// Bytes.
    pub(crate) fn bytes(&self) -> Read<i64> {
        units::bytes(&self.scalar()?).map_err(|problem| self.wrong(problem))
    }

    /// Billionths of a processor.
    pub(crate) fn nano_cpus(&self) -> Read<i64> {
        units::nano_cpus(&self.scalar()?).map_err(|problem| self.wrong(problem))
    }

    pub(crate) fn list(&self) -> Read<Vec<At<'t>>> {
        let Value::List(nodes) = &self.node.value else {
            return self.expected("a list");
        };
        let item = |(index, node)| self.child(node, format!("{}[{index}]", self.path));
        Ok(nodes.iter().enumerate().map(item).collect())
    }

    /// Keys with their values; nothing at all counts as no keys.
    pub(crate) fn map(&self) -> Read<Vec<(&'t str, At<'t>)>> {
        let entries = match &self.node.value {
            Value::Map(entries) => entries.as_slice(),
            _ if self.is_null() => &[],
            _ => return self.expected("a mapping"),
        };
        let entry = |(key, node): &'t (String, Node)| {
            let path = if self.path.is_empty() {
                key.clone()
            } else {
                format!("{}.{key}", self.path)
            };
            (key.as_str(), self.child(node, path))
        };
        Ok(entries.iter().map(entry).collect())
    }

    /// A list of text and numbers.
    pub(crate) fn scalars(&self) -> Read<Vec<String>> {
        self.list()?.iter().map(At::scalar).collect()
    }

    /// One text, or a list of them.
    pub(crate) fn one_or_more(&self) -> Read<Vec<String>> {
        if self.is_list() {
            self.scalars()
        } else {
            Ok(vec![self.scalar()?])
        }
    }

    /// Words of a command: a list as it is, or a line split as a shell splits it.
    pub(crate) fn words(&self) -> Read<Vec<String>> {
        if self.is_null() {
            return Ok(Vec::new());
        }
        if self.is_list() {
            return self.scalars();
        }
        super::short::split_words(&self.text()?).map_err(|problem| self.wrong(problem))
    }

    /// `KEY: value` or a list of `KEY=value`; a key without a value has none.
    pub(crate) fn pairs(&self) -> Read<Vec<(String, Option<String>)>> {
        if self.is_list() {
            let split = |text: String| match text.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (text, None),
            };
            return Ok(self.scalars()?.into_iter().map(split).collect());
        }
        let value = |(key, at): (&str, At<'t>)| {
            let value = if at.is_null() { None } else { Some(at.scalar()?) };
            Ok((key.to_owned(), value))
        };
        self.map()?.into_iter().map(value).collect()
    }

    /// As [`At::pairs`], a missing value being empty.
    pub(crate) fn labels(&self) -> Read<proto::spec::Labels> {
        Ok(self
            .pairs()?
            .into_iter()
            .map(|(key, value)| (key, value.unwrap_or_default()))
            .collect())
    }

    /// A mapping whose keys are known: see [`Object`].
    pub(crate) fn object(&self) -> Read<Object<'t>> {
        Ok(Object {
            at: self.clone(),
            entries: self.map()?,
        })
    }
}

/// A mapping whose keys are taken one by one; what is left at the end is unknown, and an error.
#[derive(Debug)]
pub(crate) struct Object<'t> {
    pub(crate) at: At<'t>,
    entries: Vec<(&'t str, At<'t>)>,
}

impl<'t> Object<'t> {
    /// Takes a key; `None` if it is not there or says nothing.
    pub(crate) fn take(&mut self, key: &str) -> Option<At<'t>> {
        self.take_even_null(key).filter(|at| !at.is_null())
    }

    /// Takes a key, also if it says nothing.
    pub(crate) fn take_even_null(&mut self, key: &str) -> Option<At<'t>> {
        let index = self.entries.iter().position(|(known, _)| *known == key)?;
        Some(self.entries.swap_remove(index).1)
    }

    /// Takes a key and reads it.
    pub(crate) fn read<T>(&mut self, key: &str, read: impl FnOnce(&At<'t>) -> Read<T>) -> Read<Option<T>> {
        self.take(key).map(|at| read(&at)).transpose()
    }

    /// Takes a key and reads it; the default if it is not there.
    pub(crate) fn or_default<T: Default>(
        &mut self,
        key: &str,
        read: impl FnOnce(&At<'t>) -> Read<T>,
    ) -> Read<T> {
        Ok(self.read(key, read)?.unwrap_or_default())
    }

    /// Takes a key that must be there.
    pub(crate) fn required<T>(&mut self, key: &str, read: impl FnOnce(&At<'t>) -> Read<T>) -> Read<T> {
        let value = self.read(key, read)?;
        value.ok_or_else(|| self.at.wrong(format!("the key {key:?} is missing")))
    }

    /// The keys that have not been taken and say something.
    pub(crate) fn rest(&self) -> impl Iterator<Item = &'t str> + '_ {
        let said = self
            .entries
            .iter()
            .filter(|(key, at)| !key.starts_with("x-") && !at.is_null());
        said.map(|(key, _)| *key)
    }

    /// Takes keys that a stack does not act on, with a warning for each.
    pub(crate) fn ignore(&mut self, keys: &[&str]) {
        for key in keys {
            if let Some(at) = self.take_even_null(key) {
                at.warn("not acted on in a stack");
            }
        }
    }

    /// Ends the reading: what is left, except extensions `x-…`, is an error.
    pub(crate) fn finish(self) -> Read<()> {
        match self.entries.iter().find(|(key, _)| !key.starts_with("x-")) {
            Some((key, at)) => Err(at.wrong(format!("the key {key:?} is not known here"))),
            None => Ok(()),
        }
    }
}
