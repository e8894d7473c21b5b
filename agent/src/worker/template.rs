//! Placeholders in a service's hostname, environment and mounts: `{{.Service.Name}}`, `{{.Task.Slot}}` and the like.
//!
//! The words are SwarmKit's (`template/context.go`). Anything else between braces is refused by name: a placeholder that
//! is passed through unexpanded would surprise its user much later.

use std::collections::BTreeMap;

use thiserror::Error;

/// What placeholders can name.
#[derive(Debug, Clone, Default)]
pub struct TemplateContext {
    /// `.Service.ID`
    pub service_id: String,
    /// `.Service.Name`
    pub service_name: String,
    /// `.Service.Labels`
    pub service_labels: BTreeMap<String, String>,
    /// `.Node.ID`
    pub node_id: String,
    /// `.Node.Hostname`
    pub node_hostname: String,
    /// `.Node.Platform.OS`
    pub platform_os: String,
    /// `.Node.Platform.Architecture`
    pub platform_architecture: String,
    /// `.Task.ID`
    pub task_id: String,
    /// `.Task.Name`
    pub task_name: String,
    /// `.Task.Slot`: the slot number, or the node's id in a global service.
    pub task_slot: String,
}

/// A template that cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// A placeholder that is not known.
    #[error("unknown placeholder {{{{{0}}}}}")]
    Unknown(String),
    /// `{{` without `}}`.
    #[error("placeholder without end in {0:?}")]
    Unclosed(String),
}

impl TemplateContext {
    /// Expands every placeholder of `text`.
    pub fn expand(&self, text: &str) -> Result<String, TemplateError> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("{{") {
            out.push_str(&rest[..start]);
            let inner = &rest[start + 2..];
            let end = inner
                .find("}}")
                .ok_or_else(|| TemplateError::Unclosed(text.to_owned()))?;
            out.push_str(&self.value(&inner[..end])?);
            rest = &inner[end + 2..];
        }
        out.push_str(rest);
        Ok(out)
    }

    fn value(&self, placeholder: &str) -> Result<String, TemplateError> {
        let words: Vec<&str> = placeholder.split_whitespace().collect();
        let value = match words.as_slice() {
            [".Service.ID"] => &self.service_id,
            [".Service.Name"] => &self.service_name,
            [".Node.ID"] => &self.node_id,
            [".Node.Hostname"] => &self.node_hostname,
            [".Node.Platform.OS"] => &self.platform_os,
            [".Node.Platform.Architecture"] => &self.platform_architecture,
            [".Task.ID"] => &self.task_id,
            [".Task.Name"] => &self.task_name,
            [".Task.Slot"] => &self.task_slot,
            ["index", ".Service.Labels", name] => return Ok(self.label(name.trim_matches('"'))),
            [one] if one.starts_with(".Service.Labels.") => {
                return Ok(self.label(&one[".Service.Labels.".len()..]));
            }
            _ => return Err(TemplateError::Unknown(placeholder.trim().to_owned())),
        };
        Ok(value.clone())
    }

    /// Go's map lookup: an absent key is the empty string.
    fn label(&self, name: &str) -> String {
        self.service_labels.get(name).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> TemplateContext {
        TemplateContext {
            service_name: "web".into(),
            task_slot: "3".into(),
            node_hostname: "n1".into(),
            service_labels: BTreeMap::from([("tier".into(), "front".into())]),
            ..TemplateContext::default()
        }
    }

    #[test]
    fn placeholders_are_replaced() {
        let text = "{{.Service.Name}}-{{ .Task.Slot }}@{{.Node.Hostname}}";
        assert_eq!(context().expand(text).unwrap(), "web-3@n1");
        assert_eq!(
            context().expand(r#"{{index .Service.Labels "tier"}}"#).unwrap(),
            "front"
        );
        assert_eq!(context().expand("plain } { text").unwrap(), "plain } { text");
    }

    #[test]
    fn unknown_placeholders_are_refused_by_name() {
        let error = context().expand("a {{.Host}} b").unwrap_err();
        assert_eq!(error.to_string(), "unknown placeholder {{.Host}}");
        assert!(matches!(
            context().expand("{{.Task.ID"),
            Err(TemplateError::Unclosed(_))
        ));
    }
}
