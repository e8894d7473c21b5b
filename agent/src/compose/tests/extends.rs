//! `extends`: what a service becomes, and what is said of wrong ones.

use super::folder::{Files, error};

#[test]
fn a_service_lies_over_the_one_that_it_extends() {
    let files = Files::new(&[
        (
            "main.yml",
            "services:\n  web:\n    extends: {service: mid, file: lib/common.yml}\n    environment: {B: 3}\n    \
             cap_add: [Y, Z]\n    command: [c]\n    volumes: ['./own:/d']\n  plain:\n    extends: web\n    image: other\n",
        ),
        (
            "lib/common.yml",
            "services:\n  mid:\n    extends: {service: base}\n    environment: [A=1, B=2]\n    cap_add: [X, Y]\n    \
             volumes: ['./keep:/k', './gone:/d']\n  base: {image: 'i:${OUTER}', user: root, command: [a, b], env_file: [e.env]}\n  \
             other: {image: '${NO:?unused}'}\n",
        ),
        ("lib/e.env", "E=e\n"),
    ]);
    let web = "    image: \"i:outer\"\n    user: root\n    command:\n      - c\n    env_file:\n      - DIR/lib/e.env\n    \
               environment:\n      A: \"1\"\n      B: 3\n    cap_add:\n      - X\n      - Y\n      - Z\n    \
               volumes:\n      - \"DIR/lib/keep:/k\"\n      - \"./own:/d\"\n";
    let plain = web.replace("\"i:outer\"", "other");
    let expected = format!("services:\n  web:\n{web}  plain:\n{plain}");
    assert_eq!(files.yaml(&["main.yml"]), expected);
    assert_eq!(files.load(&["main.yml"]).unwrap().warnings, Vec::<String>::new());
}

#[test]
fn what_is_wrong_with_an_extends_is_said() {
    let service = |lines: &str| format!("services:\n  a:\n    image: x\n    {lines}\n");
    let other = "services:\n  b: {extends: {service: a, file: main.yml}}\n  d: {image: x, depends_on: [db]}\n  \
                 h: {image: x, healthcheck: {test: t}}\n  v: {image: x, volumes_from: [a]}\n  w: {imagee: x}\n";
    for (lines, expected) in [
        (
            "extends: a",
            "DIR/main.yml:4:14: services.a.extends: extends goes in a circle: a of DIR/main.yml → a of DIR/main.yml",
        ),
        (
            "extends: {service: b, file: o.yml}",
            "extends goes in a circle: a of DIR/main.yml → b of DIR/o.yml → a of DIR/main.yml",
        ),
        (
            "extends: {service: no, file: o.yml}",
            "the service \"no\" is not among the services of DIR/o.yml",
        ),
        (
            "extends: {service: b, file: no.yml}",
            "services.a.extends: cannot read DIR/no.yml: No such file",
        ),
        (
            "extends: {file: o.yml}",
            "services.a.extends: the key \"service\" is missing",
        ),
        (
            "extends: {service: b, as: c}",
            "services.a.extends.as: the key \"as\" is not known here",
        ),
        (
            "extends: [b]",
            "services.a.extends: this must be text, but it is a list",
        ),
        (
            "extends: {service: d, file: o.yml}",
            "depends_on names \"db\", which is not among",
        ),
        (
            "extends: {service: v, file: o.yml}",
            "DIR/o.yml:5:31: services.a.volumes_from: volumes_from is not built",
        ),
        (
            "extends: {service: w, file: o.yml}",
            "DIR/o.yml:6:15: services.a.imagee: the key \"imagee\" is not known",
        ),
        (
            "extends: {service: h, file: o.yml}\n    healthcheck: {disable: true}",
            "services.a.healthcheck.disable: the extended service has a healthcheck",
        ),
    ] {
        let found = error(&service(lines), &[("o.yml", other)]);
        assert!(
            found.starts_with("DIR/") && found.contains(expected),
            "{lines}\n  {found}\n  {expected}"
        );
    }
}

#[test]
fn chains_and_sums_without_end_are_refused() {
    let link = |n: usize| format!("  s{n}: {{image: x, extends: s{}}}\n", n + 1);
    let services: String = (0..5000).map(link).collect();
    let found = error(&format!("services:\n{services}  s5000: {{image: x}}\n"), &[]);
    assert!(
        found.contains("more than 64 services extend one another"),
        "{found}"
    );
    let labels: String = (0..1000).map(|n| format!("l{n}, ")).collect();
    let over: String = (0..200)
        .map(|n| format!("  s{n}: {{extends: large}}\n"))
        .collect();
    let large = format!("services:\n  large: {{image: x, labels: [{labels}]}}\n{over}");
    let found = error(&large, &[]);
    assert!(found.contains("adds up without end"), "{found}");
}
