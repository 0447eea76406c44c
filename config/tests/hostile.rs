//! Texts that somebody wrote to hurt: each ends in a named error, soon, and in little memory.

use std::time::{Duration, Instant};

use config::{Diagnostics, Format, parse};

/// Far above what any of these takes, and far below what one that explodes would take.
const SOON: Duration = Duration::from_secs(30);

fn errors_of(text: &str, format: Format) -> Diagnostics {
    let start = Instant::now();
    let diagnostics = parse("hostile", text, format).expect_err("this is not a config");
    assert!(!diagnostics.is_empty() && diagnostics.len() <= 100);
    // What is shown stays small too.
    assert!(diagnostics.render(true).len() < 200_000);
    assert!(diagnostics.to_json().len() < 200_000);
    assert!(start.elapsed() < SOON, "took {:?}", start.elapsed());
    diagnostics
}

#[track_caller]
fn expect(text: &str, format: Format, message: &str) {
    let diagnostics = errors_of(text, format);
    let first = &diagnostics.list[0];
    assert!(first.message.contains(message), "{first}");
}

#[test]
fn twenty_thousand_brackets() {
    for (open, format) in [("[", Format::Yaml), ("{a: ", Format::Yaml), ("- ", Format::Yaml)] {
        expect(&open.repeat(20_000), format, "nests at most 64 levels");
    }
    let (open, close) = ("[".repeat(20_000), "]".repeat(20_000));
    expect(&format!("{open}{close}"), Format::Json, "nests at most 64 levels");
    expect(&"{\"a\":".repeat(20_000), Format::Json, "not JSON");
    expect(&format!("a = {}", "[".repeat(20_000)), Format::Toml, "not TOML");
    expect(&format!("a = {}", "{a=".repeat(20_000)), Format::Toml, "not TOML");
}

#[test]
fn twenty_thousand_dots() {
    let key = format!("a{}", ".a".repeat(20_000));
    errors_of(&format!("{key} = 1"), Format::Toml);
    errors_of(&format!("a{} = 1", ".a".repeat(8 << 20)), Format::Toml);
    errors_of(&format!("[{key}]"), Format::Toml);
    errors_of(&format!("[[{key}]]"), Format::Toml);
    errors_of(&format!("b = {{ {key} = 1 }}"), Format::Toml);
    let key = format!("a{}", ".a".repeat(900));
    errors_of(
        &format!("[{key}]\n{}1{}", format!("{key} = {{").repeat(60), "}".repeat(60)),
        Format::Toml,
    );
    errors_of(&format!("[{key}]\n{key} = {}1{}", "[".repeat(60), "]".repeat(60)), Format::Toml);
    errors_of(&format!("[{key}]\n").repeat(2), Format::Toml);
}

#[test]
fn a_bomb_of_one_long_text() {
    let aliases = ["*a"; 20_000].join(", ");
    for anchored in
        [format!("\"{}\"", "z".repeat(1 << 20)), format!("{{ {}: 1 }}", "k".repeat(1_000))]
    {
        let times =
            if anchored.len() > 2_000 { &aliases[..2_000] } else { &[&*aliases; 3].join(", ") };
        let text =
            format!("x-a: &a {anchored}\nx-b: [{}]\n", times.trim_end_matches([',', ' ', '*']));
        expect(
            &text,
            Format::Yaml,
            "aliases may stand for at most 500000 keys and values, and 32 MiB",
        );
    }
    let items = ["1"; 1_000].join(",");
    let many = ["*a"; 600].join(", ");
    expect(&format!("x-a: &a [{items}]\nx-b: [{many}]\n"), Format::Yaml, "aliases may stand for");
}

#[test]
fn a_bomb_of_anchors() {
    let mut text = String::from("x0: &x0 [a, a, a, a, a, a, a, a, a]\n");
    for level in 1..40 {
        let before = format!("*x{}", level - 1);
        let items = [before.as_str(); 9].join(", ");
        text.push_str(&format!("x{level}: &x{level} [{items}]\n"));
    }
    expect(&text, Format::Yaml, "aliases may stand for at most 500000");
}

#[test]
fn a_bomb_of_merge_keys() {
    let mut text = String::from("x0: &x0 { a: 1, b: 2, c: 3, d: 4 }\n");
    for level in 1..200 {
        let before = format!("*x{}", level - 1);
        let sources = [before.as_str(); 9].join(", ");
        text.push_str(&format!("x{level}: &x{level} {{ <<: [{sources}], k{level}: 1 }}\n"));
    }
    expect(&text, Format::Yaml, "aliases may stand for at most 500000");
}

#[test]
fn a_tower_of_anchors() {
    let mut text = String::from("x0: &x0 a\n");
    for level in 1..250 {
        let (open, close) = ("[".repeat(60), "]".repeat(60));
        text.push_str(&format!("x{level}: &x{level} {open}*x{}{close}\n", level - 1));
    }
    expect(&text, Format::Yaml, "nests at most 64 levels");
}

#[test]
fn more_than_fits() {
    let text = "# a long comment\n".repeat((100 << 20) / 17);
    for format in [Format::Yaml, Format::Toml, Format::Json] {
        expect(&text, format, "at most 32 MiB");
    }
}

#[test]
fn one_line_of_many_megabytes() {
    let line = "a".repeat(8 << 20);
    errors_of(&line, Format::Yaml);
    errors_of(&format!("{line}: 1"), Format::Yaml);
    errors_of(&format!("node: {{ id: {line} }}"), Format::Yaml);
    errors_of(&format!("\"{line}"), Format::Yaml);
    errors_of(&format!("{line} = 1"), Format::Toml);
    errors_of(&format!("node.id = \"{line}\""), Format::Toml);
    errors_of(&format!("{{\"{line}\": 1}}"), Format::Json);
    errors_of(&format!("{{\"node\": {{\"id\": \"{line}\"}}}}"), Format::Json);
}

#[test]
fn hundreds_of_thousands_of_mistakes() {
    let keys: String = (0..200_000).map(|n| format!("key{n}: 1\n")).collect();
    let diagnostics = errors_of(&keys, Format::Yaml);
    let last = diagnostics.list.last().unwrap();
    assert!(last.message.contains("more errors are not shown"), "{last}");
    errors_of(&keys.replace(": 1", " = 1"), Format::Toml);
    errors_of(&format!("listeners:\n{}", "- 5\n".repeat(300_000)), Format::Yaml);
    errors_of(&format!("routes:\n{}", "- 5\n".repeat(300_000)), Format::Yaml);
    errors_of(&format!("routes:\n{}", "- { name: a }\n".repeat(200_000)), Format::Yaml);
}

#[test]
fn millions_of_values() {
    let ones = "1,".repeat(5 << 20);
    expect(&format!("a: [{ones}1]"), Format::Yaml, "at most 4000000 keys and values");
    expect(&format!("{{\"a\": [{ones}1]}}"), Format::Json, "at most 4000000 keys and values");
    for text in [
        format!("a = [{ones}1]"),
        format!("a = \"\\\"'#\" # \"\na = '\"' # '\nb = [{ones}1]"),
        format!("a = \"\"\"\"\n\"\"\"\nb = [{ones}1]"),
        format!("a = \"\nb = [{ones}1]"),
        "[[a]]\n".repeat(5 << 20),
        "[a.a.a.a.a.a.a.b]\n".repeat(1 << 20),
    ] {
        expect(&text, Format::Toml, "at most 4000000 keys and values");
    }
    // What stands in strings and comments does not count.
    let text = format!("a = \"{ones}\" # {ones}\n");
    expect(&text, Format::Toml, "unknown key `a`");
}

#[test]
fn warnings_do_not_hide_errors() {
    let listeners: String = (0..500)
        .map(|n| {
            let port = 10_000 + n;
            format!("- {{ name: l{n}, address: \"127.0.0.1:{port}\", tcp: {{ service: a }}, timeouts: {{}} }}\n")
        })
        .collect();
    let services = "services: [{ name: a, endpoints: [{ address: 127.0.0.1:1 }] }]\n";
    let text = format!("{services}listeners:\n{listeners}");
    let warnings = parse("many", &text, Format::Yaml).unwrap().warnings;
    assert_eq!(warnings.len(), 99);
    let last = warnings.list.last().unwrap();
    assert!(last.message == "402 more warnings are not shown", "{last}");
    let wrong = format!("{text}workers: many\n");
    let diagnostics = errors_of(&wrong, Format::Yaml);
    assert!(diagnostics.to_string().contains("found the text `many`"), "{diagnostics}");
}

#[test]
fn many_names_and_as_many_that_are_not_there() {
    let services: String = (0..50_000)
        .map(|n| {
            format!("- {{ name: service-number-{n}, endpoints: [{{ address: 127.0.0.1:1 }}] }}\n")
        })
        .collect();
    let routes: String = (0..50_000)
        .map(|n| format!("- {{ name: r{n}, backends: [{{ service: servise-number-{n} }}] }}\n"))
        .collect();
    let listeners = "listeners: [{ name: web, address: 127.0.0.1:80, http: {} }]";
    let text = format!("{listeners}\nservices:\n{services}routes:\n{routes}");
    expect(&text, Format::Yaml, "there is no service with the name");
}

#[test]
fn garbage_that_parsers_dislike() {
    for piece in [
        ":", "? ", "- - ", "*", "&", "&a ", "!", "%", "\"", "'", "|\n", ">\n", "---\n", "...\n",
        "\t", "\0", "\u{feff}", "[]: ", "{}\n", "\r", "\u{85}", "\u{2028}", "\\", "#", "<<: ",
        "a: &a\n", "a:\n ", ",", "]",
    ] {
        let text = piece.repeat((1 << 20) / piece.len());
        for format in [Format::Yaml, Format::Toml, Format::Json] {
            errors_of(&text, format);
        }
    }
}

#[test]
fn terminals_are_safe() {
    let diagnostics =
        errors_of("\"\\e[31m\\x07\": 1\nlisteners: [\"\\e]0;x\\x07\"]\n", Format::Yaml);
    assert!(!diagnostics.to_string().contains(['\u{1b}', '\u{7}']));
    let toml = errors_of("\"\\u001b[31m\" = 1", Format::Toml);
    assert!(!toml.to_string().contains('\u{1b}'));
}

#[test]
fn many_redirects_of_many_hosts() {
    let list = |count: usize, one: &dyn Fn(usize) -> String| {
        (0..count).map(one).collect::<Vec<_>>().join(", ")
    };
    let hosts = list(2_000, &|n| format!("h{n}"));
    let matches = list(100, &|n| format!("{{ path: {{ prefix: /p{n} }} }}"));
    let route = |n: usize| {
        format!(
            "- {{ name: r{n}, hosts: [{hosts}], matches: [{matches}], redirect: {{ prefix: /q{n} }} }}\n"
        )
    };
    let routes: String = (0..20).map(route).collect();
    let text =
        format!("listeners: [{{ name: a, address: 127.0.0.1:1, http: {{}} }}]\nroutes:\n{routes}");
    let start = Instant::now();
    parse("hostile", &text, Format::Yaml).expect("a config, if an odd one");
    assert!(start.elapsed() < SOON, "took {:?}", start.elapsed());
}

/// Routes that have to be compared with each other, in ways that cost.
#[test]
fn many_routes_in_one_place() {
    let long = "x".repeat(4_000);
    let deep = "/a".repeat(2_000);
    let kinds: [&dyn Fn(usize) -> String; 4] = [
        &|n| format!("matches: [{{ headers: [{{ name: x, exact: \"{long}{n}\" }}] }}]"),
        &|n| match n % 2 {
            0 => format!("matches: [{{ headers: [{{ name: x, exact: \"{long}{n}\" }}] }}]"),
            _ => "matches: [{ headers: [{ name: x, regex: \"x*[0-9]\" }] }]".into(),
        },
        &|n| {
            format!(
                "priority: {n}, hosts: [\"{}b{n}\"], matches: [{{ path: {{ exact: {deep} }} }}]",
                "a.".repeat(100)
            )
        },
        &|n| {
            format!(
                "matches: [{{ methods: [M{n}, N{n}] }}, {{ cookies: [{{ name: c{n}, present: true }}] }}]"
            )
        },
    ];
    for kind in kinds {
        let mut text =
            String::from("listeners: [{ name: l, address: '127.0.0.1:0', http: {} }]\nroutes:\n");
        for n in 0..2_000 {
            text.push_str(&format!("  - {{ name: r{n}, respond: {{}}, {} }}\n", kind(n)));
        }
        let start = Instant::now();
        parse("hostile", &text, Format::Yaml).expect("a config, if an odd one");
        assert!(start.elapsed() < SOON, "took {:?}", start.elapsed());
    }
}

#[test]
fn regexes_without_end() {
    let routes = |pattern: &dyn Fn(usize) -> String| {
        let route = |n| {
            format!(
                "  - {{ name: r{n}, respond: {{}}, matches: [{{ path: {{ regex: \"{}\" }} }}] }}\n",
                pattern(n)
            )
        };
        let routes: String = (0..3_000).map(route).collect();
        format!("listeners: [{{ name: l, address: '127.0.0.1:0', http: {{}} }}]\nroutes:\n{routes}")
    };
    expect(&routes(&|n| format!("(a|b)*a(a|b){{20}}{n}")), Format::Yaml, "is too large");
    expect(
        &routes(&|n| format!("/[^/]{{1,200}}/{n}x[^/]{{1,400}}")),
        Format::Yaml,
        "too large together",
    );
}

#[test]
fn labels_without_end() {
    let config = |endpoint: &str, backends: &str| {
        format!(
            "listeners: [{{ name: web, address: \"127.0.0.1:80\", http: {{}} }}]\n\
             services: [{{ name: a, endpoints: [{{ address: \"127.0.0.1:81\", labels: {{ {endpoint} }} }}] }}]\n\
             routes: [{{ name: r, backends: [{backends}] }}]\n"
        )
    };
    let plain = "{ service: a }";
    let many: Vec<String> = (0..65).map(|key| format!("k{key}: v")).collect();
    expect(&config(&many.join(", "), plain), Format::Yaml, "at most 64 labels");
    assert!(parse("labels", &config(&many[1..].join(", "), plain), Format::Yaml).is_ok());
    let long = format!("k: {}", "v".repeat(257));
    expect(&config(&long, plain), Format::Yaml, "is not the value of a label");
    expect(&config("k: \"a\\nb\"", plain), Format::Yaml, "is not the value of a label");
    let long = format!("{}: v", "k".repeat(257));
    expect(&config(&long, plain), Format::Yaml, "is not the key of a label");

    let parts = |count: usize| {
        let part = |number| format!("{{ service: a, labels: {{ k: v{number} }} }}");
        // Twice the same is one part.
        (0..count).chain([0]).map(part).collect::<Vec<_>>().join(", ")
    };
    assert!(parse("parts", &config("k: v", &parts(256)), Format::Yaml).is_ok());
    // Among the warnings of parts that have no endpoint.
    let found = errors_of(&config("k: v", &parts(257)), Format::Yaml);
    assert!(found.list.iter().any(|one| one.message.contains("into more than 256 parts")));
}
