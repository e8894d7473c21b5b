//! The `filters` query parameter: `{"key":{"value":true}}` or `{"key":["value"]}`.
//!
//! Values of one key are alternatives, except labels, which must all match. Docker API, "filters" of the list endpoints.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::error::{ApiError, ApiResult};

/// Parsed filters; empty when the request carried none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

impl Filters {
    /// Parses the raw parameter; `None` and the empty string mean no filter.
    pub fn parse(raw: Option<&str>) -> ApiResult<Self> {
        let Some(raw) = raw.filter(|raw| !raw.is_empty()) else {
            return Ok(Self::default());
        };
        let value: Value = serde_json::from_str(raw)
            .map_err(|error| ApiError::bad_request(format!("invalid filters {raw:?}: {error}")))?;
        let Value::Object(map) = value else {
            return Err(ApiError::bad_request(format!(
                "invalid filters {raw:?}: not a JSON object"
            )));
        };
        map.into_iter()
            .map(|(key, value)| Ok((key.clone(), values(&key, value)?)))
            .collect::<ApiResult<_>>()
            .map(Self)
    }

    /// Refuses keys that the endpoint does not know, as Docker does.
    pub fn allow(self, known: &[&str]) -> ApiResult<Self> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(ApiError::bad_request(format!("invalid filter '{key}'"))),
            None => Ok(self),
        }
    }

    /// True when no filter at all was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True when `key` was given with at least one value.
    pub fn contains(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|values| !values.is_empty())
    }

    /// The values of `key`, none when absent.
    pub fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// The only value of `key` as a boolean (`true`, `1`, `false`, `0`).
    pub fn flag(&self, key: &str) -> ApiResult<Option<bool>> {
        let Some(value) = self.values(key).next() else {
            return Ok(None);
        };
        match value {
            "true" | "1" => Ok(Some(true)),
            "false" | "0" => Ok(Some(false)),
            other => Err(ApiError::bad_request(format!("invalid filter '{key}={other}'"))),
        }
    }

    /// Key absent, or any of its values satisfies `test`.
    pub fn any(&self, key: &str, test: impl Fn(&str) -> bool) -> bool {
        !self.contains(key) || self.values(key).any(test)
    }

    /// Key absent, or equal to one of its values.
    pub fn exact(&self, key: &str, value: &str) -> bool {
        self.any(key, |wanted| wanted == value)
    }

    /// Key absent, or `value` starts with one of its values.
    pub fn prefix(&self, key: &str, value: &str) -> bool {
        self.any(key, |wanted| value.starts_with(wanted))
    }

    /// Key absent, or `value` contains one of its values.
    pub fn substring(&self, key: &str, value: &str) -> bool {
        self.any(key, |wanted| value.contains(wanted))
    }

    /// Every `key` value (`name` or `name=value`) is found among `labels`. `key` is usually `label`.
    pub fn labels<'a, I>(&self, key: &str, labels: I) -> bool
    where
        I: IntoIterator<Item = (&'a String, &'a String)>,
        I::IntoIter: Clone,
    {
        let labels = labels.into_iter();
        self.values(key).all(|wanted| {
            let (name, value) = wanted
                .split_once('=')
                .map_or((wanted, None), |(n, v)| (n, Some(v)));
            labels
                .clone()
                .any(|(k, v)| k == name && value.is_none_or(|value| v == value))
        })
    }

    /// None of the `label!` values is found among `labels`.
    pub fn excluded_labels<'a, I>(&self, labels: I) -> bool
    where
        I: IntoIterator<Item = (&'a String, &'a String)>,
        I::IntoIter: Clone,
    {
        let labels = labels.into_iter();
        !self.values("label!").any(|wanted| {
            let (name, value) = wanted
                .split_once('=')
                .map_or((wanted, None), |(n, v)| (n, Some(v)));
            labels
                .clone()
                .any(|(k, v)| k == name && value.is_none_or(|value| v == value))
        })
    }
}

fn values(key: &str, value: Value) -> ApiResult<BTreeSet<String>> {
    let wrong = || {
        ApiError::bad_request(format!(
            "invalid filter '{key}': expected a list or a map of values"
        ))
    };
    match value {
        Value::Array(list) => list
            .into_iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong))
            .collect(),
        Value::Object(map) => Ok(map
            .into_iter()
            .filter(|(_, on)| on.as_bool().unwrap_or(true))
            .map(|(value, _)| value)
            .collect()),
        Value::String(one) => Ok(BTreeSet::from([one])),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: &str) -> Filters {
        Filters::parse(Some(raw)).unwrap()
    }

    #[test]
    fn both_json_forms_mean_the_same() {
        assert_eq!(
            parse(r#"{"name":{"a":true,"b":true}}"#),
            parse(r#"{"name":["a","b"]}"#)
        );
        assert!(!parse(r#"{"name":{"a":false}}"#).contains("name"));
    }

    #[test]
    fn values_of_one_key_are_alternatives() {
        let filters = parse(r#"{"name":["a","b"]}"#);
        assert!(filters.exact("name", "b"));
        assert!(!filters.exact("name", "c"));
        assert!(filters.exact("id", "anything"));
    }

    #[test]
    fn labels_must_all_match() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())]);
        assert!(parse(r#"{"label":["a=1","b"]}"#).labels("label", &labels));
        assert!(!parse(r#"{"label":["a=1","c"]}"#).labels("label", &labels));
        assert!(!parse(r#"{"label":["a=2"]}"#).labels("label", &labels));
        assert!(!parse(r#"{"label!":["a"]}"#).excluded_labels(&labels));
        assert!(parse(r#"{"label!":["a=2"]}"#).excluded_labels(&labels));
    }

    #[test]
    fn rubbish_is_refused() {
        for raw in ["[]", "{", r#"{"name":3}"#, r#"{"name":[3]}"#] {
            assert!(Filters::parse(Some(raw)).is_err(), "{raw}");
        }
        let error = parse(r#"{"nam":["x"]}"#).allow(&["name"]).unwrap_err();
        assert_eq!(error.message, "invalid filter 'nam'");
        assert!(Filters::parse(None).unwrap().is_empty());
    }
}
