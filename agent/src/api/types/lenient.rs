//! Decoding as Go's `encoding/json` does it: keys match in any case, `null` means the zero value.
//!
//! Input: a request body. Output: any `Deserialize` type whose structs carry `#[serde(default)]`. Members that the type does not
//! know are skipped, as in Go; in a body whose every field must count, [`from_slice_strict`] refuses those that say something.

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess,
    SeqAccess, Visitor,
};
use serde_json::{Error, Map, Value};

/// Decodes `body`. An empty body is the empty object, as the Docker daemon treats it.
///
/// # Errors
/// Malformed JSON, or a value of the wrong type.
pub fn from_slice<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return from_value(Value::Object(Map::new()));
    }
    from_value(serde_json::from_slice(body)?)
}

/// As [`from_slice`], but a member that the type does not know is refused, unless it says nothing (`null`, `false`, 0, empty).
///
/// # Errors
/// Those of [`from_slice`], and an unknown member, by its path.
pub fn from_slice_strict<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    let value = if body.iter().all(u8::is_ascii_whitespace) {
        Value::Object(Map::new())
    } else {
        serde_json::from_slice(body)?
    };
    T::deserialize(Lenient { value, strict: true })
}

/// As [`from_slice`], from a parsed value.
///
/// # Errors
/// A value of the wrong type.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    T::deserialize(Lenient { value, strict: false })
}

/// A JSON value whose struct keys match in any case and whose `null` members are absent.
struct Lenient {
    value: Value,
    /// Whether members that nobody reads are refused.
    strict: bool,
}

/// Whether a value is what its absence means.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.values().all(says_nothing),
    }
}

impl<'de> Deserializer<'de> for Lenient {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let strict = self.strict;
        match self.value {
            Value::Array(items) => visitor.visit_seq(Items {
                rest: items.into_iter(),
                strict,
            }),
            Value::Object(map) => visitor.visit_map(Members::new(map, &[], strict)),
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::Object(map) => visitor.visit_map(Members::new(map, fields, self.strict)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::String(text) => visitor.visit_enum(Variant(text)),
            other => other.deserialize_enum(name, variants, visitor),
        }
    }

    /// What nobody reads: serde asks for it this way.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.strict && !says_nothing(&self.value) {
            return Err(Error::custom(
                "this field is not known here, and would have no effect",
            ));
        }
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier
    }
}

/// The name of a variant without content.
struct Variant(String);

impl<'de> EnumAccess<'de> for Variant {
    type Error = Error;
    type Variant = UnitOnly;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, UnitOnly), Error> {
        let name: serde::de::value::StringDeserializer<Error> = self.0.into_deserializer();
        Ok((seed.deserialize(name)?, UnitOnly))
    }
}

struct UnitOnly;

impl<'de> serde::de::VariantAccess<'de> for UnitOnly {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _seed: T) -> Result<T::Value, Error> {
        Err(Error::custom("expected a variant with content"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::custom("expected a variant with content"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        Err(Error::custom("expected a variant with content"))
    }
}

struct Items {
    rest: std::vec::IntoIter<Value>,
    strict: bool,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let strict = self.strict;
        self.rest
            .next()
            .map(|value| seed.deserialize(Lenient { value, strict }))
            .transpose()
    }
}

/// The members of an object: nulls dropped, keys spelled as the struct's fields.
struct Members {
    rest: std::vec::IntoIter<(String, Value)>,
    value: Option<Value>,
    key: String,
    strict: bool,
}

impl Members {
    fn new(map: Map<String, Value>, fields: &'static [&'static str], strict: bool) -> Self {
        let mut members: Vec<(String, Value)> = Vec::with_capacity(map.len());
        for (key, value) in map {
            // In a map (no fields known) a null value stands for the zero value too, but its key counts.
            if value.is_null() && !fields.is_empty() {
                continue;
            }
            let key = fields
                .iter()
                .find(|f| f.eq_ignore_ascii_case(&key))
                .map_or(key, |f| (*f).to_owned());
            match members
                .iter_mut()
                .find(|(known, _)| !fields.is_empty() && *known == key)
            {
                // The last spelling wins, as in Go.
                Some(slot) => slot.1 = value,
                None => members.push((key, value)),
            }
        }
        Self {
            rest: members.into_iter(),
            value: None,
            key: String::new(),
            strict,
        }
    }
}

impl<'de> MapAccess<'de> for Members {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.rest.next() else {
            return Ok(None);
        };
        self.value = Some(value);
        self.key.clone_from(&key);
        let key: serde::de::value::StringDeserializer<Error> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let value = self
            .value
            .take()
            .ok_or_else(|| Error::custom("value before key"))?;
        let strict = self.strict;
        seed.deserialize(Lenient { value, strict })
            .map_err(|e| Error::custom(format!("{}: {e}", self.key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default, rename_all = "PascalCase")]
    struct Sample {
        #[serde(rename = "IPAddress")]
        address: String,
        list: Vec<String>,
        maybe: Option<Vec<String>>,
        inner: Inner,
        map: BTreeMap<String, Inner>,
        kind: Kind,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default, rename_all = "PascalCase")]
    struct Inner {
        count: i64,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        #[default]
        One,
        Two,
    }

    #[test]
    fn keys_match_in_any_case_at_every_depth() {
        let sample: Sample = from_slice(
            br#"{"ipaddress":"1.2.3.4","INNER":{"COUNT":3},"map":{"MyKey":{"count":4}},"Kind":"two"}"#,
        )
        .unwrap();
        assert_eq!(sample.address, "1.2.3.4");
        assert_eq!(sample.inner.count, 3);
        assert_eq!(sample.map["MyKey"].count, 4);
        assert_eq!(sample.kind, Kind::Two);
    }

    #[test]
    fn a_strict_body_refuses_what_it_does_not_know() {
        let read =
            |body: &str| from_slice_strict::<Sample>(body.as_bytes()).map_err(|error| error.to_string());
        assert!(read(r#"{"inner":{"count":3},"New":null,"Other":{"A":0,"B":[]}}"#).is_ok());
        let error = read(r#"{"Inner":{"Count":3,"Swap":1}}"#).unwrap_err();
        assert!(
            error.starts_with("Inner: Swap: this field is not known"),
            "{error}"
        );
        assert!(from_slice::<Sample>(br#"{"New":1}"#).is_ok());
    }

    #[test]
    fn null_is_the_zero_value() {
        let sample: Sample = from_slice(br#"{"List":null,"Maybe":null,"Inner":null}"#).unwrap();
        assert_eq!(sample, Sample::default());
        assert_eq!(from_slice::<Sample>(b"").unwrap(), Sample::default());
    }

    #[test]
    fn a_wrong_type_names_its_key() {
        let error = from_slice::<Sample>(br#"{"Inner":{"Count":"x"}}"#)
            .unwrap_err()
            .to_string();
        assert!(error.contains("Inner: ") && error.contains("Count: "), "{error}");
    }
}
