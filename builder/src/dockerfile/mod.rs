//! Text → instructions. Nothing is looked up and nothing is done here: what a file means is decided by the plan.

mod duration;
mod instruction;
mod lines;
mod words;

pub(crate) use self::instruction::{Command, Flags, HealthcheckSpec, Instruction, Kind, parse_one};
pub(crate) use self::lines::Complaint;
pub(crate) use self::words::{expand, expand_many};

/// A parsed Dockerfile.
#[derive(Debug, Clone)]
pub(crate) struct Dockerfile {
    pub(crate) escape: char,
    pub(crate) instructions: Vec<Instruction>,
}

/// Parses a whole file.
pub(crate) fn parse(text: &str) -> Result<Dockerfile, Complaint> {
    let split = lines::split(text)?;
    let parse = |line: &lines::Line| {
        parse_one(&line.text, line.number, split.escape).map_err(|reason| Complaint {
            number: line.number,
            reason,
        })
    };
    let instructions = split.lines.iter().map(parse).collect::<Result<_, _>>()?;
    Ok(Dockerfile {
        escape: split.escape,
        instructions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_error_names_its_line() {
        let complaint = parse("FROM scratch\n\nFOO bar\n").unwrap_err();
        assert_eq!(
            (complaint.number, complaint.reason.as_str()),
            (3, "unknown instruction: FOO")
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "([A-Za-z]{2,8} [ -~\n]{0,40}\n){0,6}") {
            let _ = parse(&text);
        }

        #[test]
        fn instructions_keep_their_case_insensitive_meaning(upper in any::<bool>()) {
            let word = if upper { "WORKDIR" } else { "workdir" };
            let parsed = parse(&format!("{word} /a b")).unwrap();
            prop_assert!(matches!(&parsed.instructions[0].kind, Kind::Workdir(path) if path == "/a b"));
        }
    }
}
