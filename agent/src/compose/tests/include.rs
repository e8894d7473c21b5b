//! `include`: what comes in, and what is said of wrong ones.

use std::path::Path;

use super::folder::{Files, error};

#[test]
fn an_included_model_keeps_its_folder_and_its_variables() {
    let files = Files::new(&[
        (
            "main.yml",
            "include: [sub/db.yml]\nservices:\n  app: {image: a, depends_on: [db], volumes: ['./m:/m'], networks: [back]}\n",
        ),
        (
            "sub/db.yml",
            "name: ignored\nservices:\n  db:\n    image: \"db:${TAG}-${OUTER}\"\n    build: {dockerfile: D}\n    env_file: db.env\n    \
             environment: [PASS, OUTER, NONE]\n    volumes: ['./data:/d', 'named:/n', {type: bind, source: ../x, target: /x}]\n    \
             networks: [back]\nnetworks: {back: }\nvolumes: {named: }\n\
             secrets:\n  s: {file: ./s.txt}\n  e: {environment: PASS}\n",
        ),
        ("sub/.env", "TAG=7\nOUTER=inner\nPASS=p\n"),
        ("sub/db.env", "FROM=file\n"),
        ("sub/s.txt", "hidden"),
    ]);
    assert_eq!(
        files.yaml(&["main.yml"]),
        "services:\n  app:\n    image: a\n    depends_on:\n      - db\n    volumes:\n      - \"./m:/m\"\n    networks:\n      - back\n  \
         db:\n    image: \"db:7-outer\"\n    build:\n      dockerfile: D\n      context: DIR/sub\n    env_file: DIR/sub/db.env\n    \
         environment:\n      - \"PASS=p\"\n      - OUTER\n      - NONE\n    volumes:\n      - \"DIR/sub/data:/d\"\n      - \"named:/n\"\n      \
         -\n        type: bind\n        source: DIR/x\n        target: /x\n    networks:\n      - back\n\
         networks:\n  back: null\nvolumes:\n  named: null\nsecrets:\n  s:\n    file: DIR/sub/s.txt\n  e:\n    content: p\n"
    );
    let stack = files.load(&["main.yml"]).unwrap().stack;
    let db = &stack.services[1];
    assert_eq!(db.container.env, ["FROM=file", "OUTER=outer", "PASS=p"]);
    assert_eq!(
        (stack.name, stack.secrets["s"].data.as_slice()),
        (None, &b"hidden"[..])
    );
}

#[test]
fn the_long_form_names_files_folder_and_variables() {
    let files = Files::new(&[
        (
            "main.yml",
            "include:\n  - path: [a/one.yml, over.yml]\n    project_directory: base\n    env_file: [x.env, y.env]\n",
        ),
        (
            "a/one.yml",
            "services: {s: {image: '${A}', volumes: ['./d:/d']}}\n",
        ),
        ("over.yml", "services: {s: {image: '${A}-${B}'}}\n"),
        ("x.env", "A=1\nB=2\n"),
        ("y.env", "B=3\n"),
        ("base/.env", "A=9\n"),
    ]);
    assert_eq!(
        files.yaml(&["main.yml"]),
        "services:\n  s:\n    image: 1-3\n    volumes:\n      - \"DIR/base/d:/d\"\n"
    );
}

#[test]
fn a_file_may_be_included_by_two_that_are_included() {
    let files = Files::new(&[
        ("main.yml", "include: [a/a.yml, b.yml]\n"),
        (
            "a/a.yml",
            "include: [../c/c.yml]\nservices: {a: {image: x, depends_on: [c]}}\n",
        ),
        (
            "b.yml",
            "include: [c/c.yml]\nservices: {b: {image: x, depends_on: [c]}}\n",
        ),
        ("c/c.yml", "services: {c: {image: x, volumes: ['.:/c']}}\n"),
    ]);
    assert_eq!(files.load(&["main.yml"]).unwrap().stack.services.len(), 3);
}

#[test]
fn what_is_wrong_with_an_include_is_said() {
    let service = "services: {s: {image: x}}\n";
    for (main, other, expected) in [
        (
            "include: [a.yml]\nservices: {s: {image: y}}\n",
            service,
            "DIR/main.yml:1:11: include[0]: the service \"s\" of DIR/a.yml:1:15 is another one than that of DIR/main.yml:2:15",
        ),
        (
            "include: [a.yml]\nservices: {s: {image: x}}\nvolumes: {v: {driver: x}}\n",
            "volumes: {v: {driver: y}}\n",
            "include[0]: the volume \"v\" of DIR/a.yml:1:14 is another one than that of DIR/main.yml:3:14",
        ),
        (
            "include: [a.yml]\n",
            "include: [main.yml]\n",
            "DIR/a.yml:1:11: include[0]: include goes in a circle: DIR/main.yml → DIR/a.yml → DIR/main.yml",
        ),
        (
            "include: [main.yml]\n",
            service,
            "include goes in a circle: DIR/main.yml → DIR/main.yml",
        ),
        (
            "include: [no.yml]\n",
            service,
            "DIR/main.yml:1:11: include[0]: cannot read DIR/no.yml: No such file",
        ),
        (
            "include: [{env_file: x}]\n",
            service,
            "include[0]: the key \"path\" is missing",
        ),
        (
            "include: [{path: []}]\n",
            service,
            "include[0]: path names no file",
        ),
        (
            "include: [{path: a.yml, as: b}]\n",
            service,
            "include[0].as: the key \"as\" is not known here",
        ),
        (
            "include: [{path: a.yml, env_file: no.env}]\n",
            service,
            "include[0]: cannot read env file DIR/no.env: No such file",
        ),
        (
            "include: a.yml\n",
            service,
            "DIR/main.yml:1:10: include: this must be a list, but it is text",
        ),
        (
            "include: ['https://x/y.yml']\n",
            service,
            "is not a file of this machine",
        ),
        (
            "include: [a.yml]\n",
            "nets: {}\n",
            "DIR/a.yml:1:7: nets: the key \"nets\" is not known here",
        ),
        (
            "include: [a.yml]\n",
            "services: [x]\n",
            "DIR/a.yml:1:11: services: this must be a mapping",
        ),
        (
            "include: [a.yml]\n",
            "services: {s: {image: x, a: b}}",
            "DIR/a.yml:1:29: services.s.a: the key",
        ),
    ] {
        let found = error(main, &[("a.yml", other)]);
        assert!(found.contains(expected), "{main}\n  {found}\n  {expected}");
    }
}

#[test]
fn an_include_is_followed_when_all_files_lie_over_each_other() {
    let files = Files::new(&[
        ("main.yml", "include: [a.yml]\nservices: {m: {image: x}}\n"),
        ("over.yml", "services: {s: {image: y}}\n"),
        ("a.yml", "services: {s: {image: x}}\n"),
    ]);
    let found = files.error(&["main.yml", "over.yml"]);
    assert!(
        found.contains("of DIR/a.yml:1:15 is another one than that of DIR/over.yml:1:15"),
        "{found}"
    );
}

#[test]
fn relative_names_stay_short_in_messages() {
    assert_eq!(
        crate::compose::files::beside(Path::new("."), "a/b.yml"),
        Path::new("a/b.yml")
    );
    assert_eq!(
        crate::compose::files::beside(Path::new("s"), "../b.yml"),
        Path::new("s/../b.yml")
    );
}

#[test]
fn files_that_include_each_other_twice_come_to_an_end() {
    let includes = "include: [{path: a.yml}, {path: a.yml}]\n";
    let mut files = vec![("main.yml".to_owned(), includes.replace("a.yml", "f0.yml"))];
    files.extend((0..30).map(|n| {
        (
            format!("f{n}.yml"),
            includes.replace("a.yml", &format!("f{}.yml", n + 1)),
        )
    }));
    files.push(("f30.yml".to_owned(), "services: {}\n".to_owned()));
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let found = Files::new(&files).error(&["main.yml"]);
    assert!(found.contains("more than 1000 files are included"), "{found}");
}
