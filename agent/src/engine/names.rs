//! Container names: what Docker accepts, and invented ones for containers without.

use rand::seq::IndexedRandom;

use super::error::{EngineError, Result};

#[rustfmt::skip]
const QUALITIES: &[&str] = &[
    "able", "agile", "amber", "ample", "bold", "brave", "breezy", "bright", "brisk", "calm", "clear",
    "clever", "crisp", "curious", "deep", "eager", "early", "fair", "fleet", "fluent", "free", "fresh",
    "gentle", "glad", "golden", "grand", "happy", "hardy", "honest", "humble", "jolly", "keen", "kind",
    "lively", "loyal", "lucid", "merry", "mild", "neat", "nimble", "noble", "patient", "placid", "plain",
    "proud", "quick", "quiet", "rapid", "ready", "serene", "sharp", "silver", "sleek", "smooth", "snug",
    "sober", "spry", "stable", "steady", "still", "stout", "sunny", "swift", "tidy", "true", "vivid",
    "warm", "wise", "witty", "zesty",
];

#[rustfmt::skip]
const FISH: &[&str] = &[
    "anchovy", "angler", "barbel", "bass", "bleak", "bream", "brill", "burbot", "capelin", "carp", "char",
    "chub", "cisco", "cod", "conger", "dab", "dace", "darter", "dorado", "eel", "flounder", "gar", "goby",
    "grayling", "grouper", "gudgeon", "gunnel", "gurnard", "haddock", "hake", "halibut", "herring", "ide",
    "lamprey", "ling", "loach", "mackerel", "marlin", "minnow", "moray", "mullet", "perch", "pike",
    "pilchard", "plaice", "pollock", "pompano", "ray", "roach", "rudd", "ruffe", "salmon", "sardine",
    "seabass", "shad", "skate", "smelt", "sole", "sprat", "sturgeon", "tarpon", "tench", "tetra", "trout",
    "tuna", "turbot", "wels", "whiting", "wrasse", "zander",
];

/// Strips one leading slash and checks the rest: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
///
/// # Errors
/// Docker's message, naming the pattern.
pub fn validate(name: &str) -> Result<&str> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let mut bytes = bare.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    // A name is also a DNS label and a file name part; Docker sets no limit, the file system does.
    if first && rest && (2..=253).contains(&bare.len()) {
        return Ok(bare);
    }
    Err(EngineError::Invalid(format!(
        "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )))
}

/// An invented name, `quality_fish`; with `crowded` a number is added.
pub fn invent(crowded: bool) -> String {
    let mut random = rand::rng();
    let quality = QUALITIES.choose(&mut random).copied().unwrap_or("plain");
    let fish = FISH.choose(&mut random).copied().unwrap_or("cod");
    match crowded {
        false => format!("{quality}_{fish}"),
        true => format!("{quality}_{fish}{}", rand::random_range(0..100_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_pattern_with_optional_slash() {
        for good in ["web", "/web", "a1", "web.1.x_y-z", "0a"] {
            assert_eq!(validate(good).unwrap(), good.trim_start_matches('/'));
        }
        for bad in [
            "", "/", "a", "-a", ".a", "a b", "a/b", "../etc", "//a", "ä1", "a\n",
        ] {
            let error = validate(bad).unwrap_err().to_string();
            assert!(
                error.contains("only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"),
                "{bad:?}: {error}"
            );
        }
    }

    #[test]
    fn invented_names_are_valid() {
        for crowded in [false, true] {
            let name = invent(crowded);
            assert_eq!(validate(&name).unwrap(), name);
        }
    }
}
