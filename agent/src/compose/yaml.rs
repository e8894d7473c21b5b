//! YAML as a tree in which every node knows its place. Types of scalars are decided by who reads them: a scalar is its
//! text, and whether it was written without quotes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::error::ComposeError;

/// Nodes that a file may have once its aliases are expanded: a bomb of aliases stops here (CVE-2025-62725's kind).
pub(super) const MOST_NODES: usize = 100_000;
/// How deep a file may be nested.
const MOST_DEPTH: usize = 64;

/// File, line and column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    file: Arc<Path>,
    line: usize,
    column: usize,
}

impl Place {
    /// The file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// A value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Text; `plain` if it was written without quotes and may so mean a number, a truth value or nothing.
    Scalar { text: String, plain: bool },
    /// A list.
    List(Vec<Node>),
    /// Keys in the order of the file, each once.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Whether it is `null`, `~` or nothing at all.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if ["", "~", "null", "Null", "NULL"].contains(&&**text))
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            Value::Scalar { text, plain: true } if ["true", "false"].contains(&&**text) => "a truth value",
            Value::Scalar { text, plain: true } if text.parse::<f64>().is_ok() => "a number",
            Value::Scalar { .. } => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Parses one document.
pub(crate) fn parse(file: &Path, text: &str) -> Result<Node, ComposeError> {
    let builder = Builder {
        file: Arc::from(file),
        anchors: HashMap::new(),
        nodes: 0,
    };
    builder.document(&mut Parser::new_from_str(text))
}

type Events<'t> = Parser<'t, saphyr_parser::StrInput<'t>>;

struct Builder {
    file: Arc<Path>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl Builder {
    fn document(mut self, events: &mut Events<'_>) -> Result<Node, ComposeError> {
        let root = loop {
            match self.next(events)? {
                (Event::StreamStart | Event::DocumentStart(_) | Event::Nothing, _) => {}
                (Event::StreamEnd, span) => return Err(self.wrong(&span, "the file is empty")),
                (event, span) => break self.node(event, &span, events, 0)?,
            }
        };
        loop {
            match self.next(events)? {
                (Event::StreamEnd, _) => return Ok(root),
                (Event::DocumentStart(_), span) => {
                    return Err(self.wrong(&span, "there is a second document"));
                }
                _ => {}
            }
        }
    }

    fn node(
        &mut self,
        event: Event<'_>,
        span: &Span,
        events: &mut Events<'_>,
        depth: usize,
    ) -> Result<Node, ComposeError> {
        self.nodes += 1;
        if self.nodes > MOST_NODES || depth > MOST_DEPTH {
            return Err(self.wrong(
                span,
                "too much: the file is nested too deeply or its aliases expand without end",
            ));
        }
        self.refuse_tag(&event, span)?;
        let (anchor, value) = match event {
            Event::Alias(anchor) => return self.alias(anchor, span),
            Event::Scalar(text, style, anchor, _) => (
                anchor,
                Value::Scalar {
                    text: text.into_owned(),
                    plain: style == ScalarStyle::Plain,
                },
            ),
            Event::SequenceStart(anchor, _) => (anchor, self.list(events, depth)?),
            Event::MappingStart(anchor, _) => (anchor, self.map(events, depth)?),
            _ => return Err(self.wrong(span, "a value is missing")),
        };
        let node = Node {
            place: self.place(span),
            value,
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// A tag such as `!reset` changes what its value means; none of them is built.
    fn refuse_tag(&self, event: &Event<'_>, span: &Span) -> Result<(), ComposeError> {
        let (Event::Scalar(_, _, _, tag) | Event::SequenceStart(_, tag) | Event::MappingStart(_, tag)) =
            event
        else {
            return Ok(());
        };
        match tag {
            Some(tag) if tag.handle == "!" && !tag.suffix.is_empty() => Err(self.wrong(
                span,
                &format!("the tag !{} is not built: leave it out", tag.suffix),
            )),
            _ => Ok(()),
        }
    }

    fn alias(&mut self, anchor: usize, span: &Span) -> Result<Node, ComposeError> {
        let node = self.anchors.get(&anchor).cloned();
        let node = node.ok_or_else(|| self.wrong(span, "an alias stands within what it names"))?;
        self.nodes += size(&node);
        if self.nodes > MOST_NODES {
            return Err(self.wrong(span, "too much: the file's aliases expand without end"));
        }
        Ok(node)
    }

    fn list(&mut self, events: &mut Events<'_>, depth: usize) -> Result<Value, ComposeError> {
        let mut items = Vec::new();
        loop {
            match self.next(events)? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, span) => items.push(self.node(event, &span, events, depth + 1)?),
            }
        }
    }

    fn map(&mut self, events: &mut Events<'_>, depth: usize) -> Result<Value, ComposeError> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        let mut merged: Vec<(String, Node)> = Vec::new();
        loop {
            let (event, span) = self.next(events)?;
            let key = match event {
                Event::MappingEnd => break,
                Event::Scalar(key, ..) => key.into_owned(),
                _ => return Err(self.wrong(&span, "a key must be text")),
            };
            let (event, value_span) = self.next(events)?;
            let value = self.node(event, &value_span, events, depth + 1)?;
            if key == "<<" {
                merged.extend(self.merged(value, &value_span)?);
            } else if entries.iter().any(|(known, _)| *known == key) {
                return Err(self.wrong(&span, &format!("key {key:?} stands here twice")));
            } else {
                entries.push((key, value));
            }
        }
        for (key, value) in merged {
            if !entries.iter().any(|(known, _)| *known == key) {
                entries.push((key, value));
            }
        }
        Ok(Value::Map(entries))
    }

    /// What `<<` brings in: a mapping, or a list of them of which the first wins.
    fn merged(&self, node: Node, span: &Span) -> Result<Vec<(String, Node)>, ComposeError> {
        match node.value {
            Value::Map(entries) => Ok(entries),
            Value::List(nodes) => {
                let parts = nodes
                    .into_iter()
                    .map(|node| self.merged(node, span))
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(parts.into_iter().flatten().collect())
            }
            Value::Scalar { .. } => Err(self.wrong(span, "<< needs a mapping or a list of mappings")),
        }
    }

    fn next<'t>(&self, events: &mut Events<'t>) -> Result<(Event<'t>, Span), ComposeError> {
        match events.next() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(self.syntax(&error)),
            None => Err(ComposeError::Syntax {
                place: self.at(0, 0),
                problem: "the file ends too early".to_owned(),
            }),
        }
    }

    fn syntax(&self, error: &ScanError) -> ComposeError {
        let place = self.at(error.marker().line(), error.marker().col() + 1);
        ComposeError::Syntax {
            place,
            problem: format!("this is not YAML: {}", error.info()),
        }
    }

    fn wrong(&self, span: &Span, problem: &str) -> ComposeError {
        ComposeError::Syntax {
            place: self.place(span),
            problem: problem.to_owned(),
        }
    }

    fn place(&self, span: &Span) -> Place {
        self.at(span.start.line(), span.start.col() + 1)
    }

    fn at(&self, line: usize, column: usize) -> Place {
        Place {
            file: Arc::clone(&self.file),
            line,
            column,
        }
    }
}

/// How many nodes there are in the node, itself included.
pub(super) fn size(node: &Node) -> usize {
    match &node.value {
        Value::Scalar { .. } => 1,
        Value::List(nodes) => 1 + nodes.iter().map(size).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|(_, node)| size(node)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(Path::new("f.yml"), text).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_file_and_line() {
        assert!(
            error("a: [1,\nb: }").starts_with("f.yml:2:"),
            "{}",
            error("a: [1,\nb: }")
        );
        assert_eq!(
            error("a: 1\nb: 2\na: 3\n"),
            "f.yml:3:1: key \"a\" stands here twice"
        );
        assert_eq!(
            error("a: 1\nb: !reset []\n"),
            "f.yml:2:11: the tag !reset is not built: leave it out"
        );
        assert!(parse(Path::new("f.yml"), "a: !!str 1\nb: ! x\n").is_ok());
        assert!(error("").contains("empty"));
        assert!(error("---\na: 1\n---\nb: 1\n").contains("second document"));
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let inner = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
        }
        assert!(error(&text).contains("expand without end"));
    }

    #[test]
    fn merge_keys_bring_in_what_is_not_said() {
        let text = "base: &base {a: 1, b: 2}\nuse:\n  <<: *base\n  b: 3\n";
        let Value::Map(root) = parse(Path::new("f.yml"), text).unwrap().value else {
            panic!("not a mapping")
        };
        let Value::Map(used) = &root[1].1.value else {
            panic!("not a mapping")
        };
        let read: Vec<_> = used
            .iter()
            .map(|(key, node)| match &node.value {
                Value::Scalar { text, .. } => format!("{key}={text}"),
                _ => String::new(),
            })
            .collect();
        assert_eq!(read, ["b=3", "a=1"]);
    }
}
