//! `host plugin`: inspect, run, build, and files that are no plugins.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use host_tests::{Host, Ran, guest, misbehaviour, plugin, ran, repository};
use insta::assert_snapshot;

fn written(host: &Host, name: &str, bytes: &[u8]) -> String {
    let path = host.state_dir().join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

fn run_with_input(host: &Host, arguments: &[&str], input: &str) -> Ran {
    let mut command = host.command();
    let child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    ran(child.wait_with_output().unwrap())
}

#[test]
fn a_limit_on_address_space_is_told_with_what_to_do() {
    let host = Host::new();
    let program = host.command();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", r#"ulimit -v 8000000; exec "$0" "$@""#]).arg(program.get_program());
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.args(["plugin", "inspect"]).arg(plugin("psi"));
    let ran = ran(command.output().unwrap());
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let hint = "hint: the limit on address space is 7 GiB: raise it with `ulimit -v unlimited`";
    assert!(ran.stderr.contains(hint), "{}", ran.stderr);
}

#[test]
fn inspect_tells_what_a_component_is_wants_and_may_do() {
    let host = Host::new();
    for (name, kind, needs_fit) in [
        ("mnist-pixels", "transformer", true),
        ("argmax-label", "transformer", false),
        ("standard-scaler", "transformer", true),
        ("one-hot", "transformer", true),
        ("psi", "detector", true),
    ] {
        let told = host.run(["plugin", "inspect", &plugin(name), "--json"]).json();
        assert_eq!(told["name"], name);
        assert_eq!(told["kind"], kind);
        assert_eq!(told["needs_fit"], needs_fit);
        assert_eq!(told["contract"], "mlops:plugin@0.1.0");
        assert_eq!(told["config_schema"]["type"], "object", "{name}");
        let granted = ["mlops:plugin/types@0.1.0", "mlops:plugin/log@0.1.0", "mlops:plugin/metrics@0.1.0"];
        for import in told["imports"].as_array().unwrap() {
            assert!(granted.contains(&import.as_str().unwrap()), "{name} imports {import}");
        }
        let bytes = std::fs::read(plugin(name)).unwrap();
        assert_eq!(told["size_bytes"], bytes.len());
        let digest = sha256(&bytes);
        assert_eq!(told["digest"], format!("sha256:{digest}"));
    }
    let text = host.run(["plugin", "inspect", &plugin("argmax-label")]).expect_success();
    for word in ["argmax-label 0.1.0", "transformer", "imports", "pooled", "sha256:"] {
        assert!(text.contains(word), "{text}");
    }
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn run_learns_and_transforms_a_batch() {
    let host = Host::new();
    let (dark, bright) = (vec![50; 784], vec![200; 784]);
    let train = written(
        &host,
        "train.json",
        serde_json::json!([{"pixels": dark}, {"pixels": bright}]).to_string().as_bytes(),
    );
    let state = host.state_dir().join("state").to_str().unwrap().to_owned();
    let body = serde_json::json!({ "pixels": dark }).to_string();
    let pixels = plugin("mnist-pixels");
    let learned = run_with_input(
        &host,
        &["plugin", "run", &pixels, "--in", "-", "--fit", &train, "--save-state", &state],
        &body,
    );
    let rows: serde_json::Value = serde_json::from_str(&learned.expect_success()).unwrap();
    assert_eq!(rows[0]["features"].as_array().unwrap().len(), 784);
    assert_eq!(rows[0]["features"][0], 0.25);
    let tensors = r#"{"inputs":[{"name":"pixels","datatype":"UINT8","shape":[1,784],"data":[VALUES]}]}"#
        .replace("VALUES", &vec!["100"; 784].join(","));
    let ran = run_with_input(
        &host,
        &["plugin", "run", &pixels, "--in", "-", "--state", &state, "--json"],
        &tensors,
    );
    let answer: serde_json::Value = serde_json::from_str(&ran.expect_success()).unwrap();
    assert_eq!(answer["outputs"][0]["datatype"], "FP32");
    assert_eq!(answer["outputs"][0]["data"][783], 0.5);
}

#[test]
fn first_party_transformers_compute_as_components_what_they_say() {
    let host = Host::new();
    let cases = [
        (
            "standard-scaler",
            "{}",
            r#"[{"a":1,"b":2},{"a":3,"b":2}]"#,
            r#"[{"features":[-1.0,0.0]},{"features":[1.0,0.0]}]"#,
        ),
        (
            "one-hot",
            r#"{"columns":["c"]}"#,
            r#"[{"c":"x","n":1.5},{"c":"y","n":2}]"#,
            r#"[{"c":[1.0,0.0],"n":1.5},{"c":[0.0,1.0],"n":2.0}]"#,
        ),
        (
            "argmax-label",
            "{}",
            r#"{"inputs":[{"name":"scores","datatype":"FP32","shape":[2,3],"data":[0.1,0.7,0.2,0.5,0.25,0.25]}]}"#,
            r#"[{"label":1,"probability":0.7},{"label":0,"probability":0.5}]"#,
        ),
    ];
    for (name, config, batch, expected) in cases {
        let batch = written(&host, "batch.json", batch.as_bytes());
        let component = plugin(name);
        let mut arguments = vec!["plugin", "run", &component, "--in", &batch, "--config", config];
        if name != "argmax-label" {
            arguments.extend(["--fit", &batch]);
        }
        assert_eq!(host.run(arguments).expect_success().trim_end(), expected, "{name}");
    }
    let unknown = r#"{"columns":["c"],"unknown":"error"}"#;
    let known = written(&host, "known.json", br#"[{"c":"x"}]"#);
    let one_hot = plugin("one-hot");
    let arguments = ["plugin", "run", &one_hot, "--in", "-", "--fit", &known, "--config", unknown];
    let ran = run_with_input(&host, &arguments, r#"{"c":"z"}"#);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("column `c`"), "{}", ran.stderr);
}

#[test]
fn bad_input_is_the_callers_fault_and_says_where() {
    let host = Host::new();
    let good =
        written(&host, "good.json", serde_json::json!([{"pixels": vec![255; 784]}]).to_string().as_bytes());
    let short = serde_json::json!([{"pixels": vec![1; 783]}]).to_string();
    let ran = run_with_input(
        &host,
        &["plugin", "run", &plugin("mnist-pixels"), "--in", "-", "--fit", &good],
        &short,
    );
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("expected 784 (28 × 28) pixels a row, found 783"), "{}", ran.stderr);
    let unfitted = run_with_input(&host, &["plugin", "run", &plugin("mnist-pixels"), "--in", "-"], "[]");
    assert_eq!(unfitted.code, 2, "{}", unfitted.stderr);
}

#[test]
fn files_that_are_no_plugins_are_told_in_one_sentence() {
    let host = Host::new();
    let whole = std::fs::read(plugin("argmax-label")).unwrap();
    let inspect = |file: &str| host.run(["plugin", "inspect", file]).failure(&host);
    let half = written(&host, "half.wasm", &whole[..whole.len() / 2]);
    let half = inspect(&half);
    assert!(
        half.starts_with("exit 2\nerror: `[STATE]/half.wasm` cannot be loaded: not a valid component"),
        "{half}"
    );
    let module = written(&host, "module.wasm", b"\0asm\x01\0\0\0");
    assert_snapshot!(inspect(&module), @r"
    exit 2
    error: `[STATE]/module.wasm` cannot be loaded: a core WebAssembly module, not a component: `host plugin build` makes a component of it
    ");
    let text = written(&host, "text.wasm", b"(component)");
    assert_snapshot!(inspect(&text), @r"
    exit 2
    error: `[STATE]/text.wasm` cannot be loaded: not a WebAssembly file: expected a component, found what looks like WebAssembly text
    ");
    let empty = written(&host, "empty.wasm", b"");
    assert_snapshot!(inspect(&empty), @r"
    exit 2
    error: `[STATE]/empty.wasm` cannot be loaded: not a WebAssembly file: expected a component, found an empty file
    ");
    let undeclared = inspect(&guest("undeclared"));
    assert!(undeclared.contains("which is not granted"), "{undeclared}");
    let other_version = inspect(&guest("other-version"));
    assert!(other_version.contains("mlops:plugin@0.9.0: this host offers 0.1.0"), "{other_version}");
    let other_world = inspect(&guest("other-world"));
    assert!(other_world.contains("no world that this host knows"), "{other_world}");
    let liar = inspect(&guest("liar"));
    assert!(liar.contains("its manifest says `detector`, but it exports `transformer`"), "{liar}");
    let stuck = inspect(&guest("stuck"));
    assert!(
        stuck.contains("it could not describe itself: it ran longer than its limit of 1000 ms"),
        "{stuck}"
    );
    for cut in (0..whole.len()).step_by(whole.len() / 40) {
        let file = written(&host, "cut.wasm", &whole[..cut]);
        assert!(inspect(&file).starts_with("exit 2\nerror: "), "cut at {cut}");
    }
}

#[test]
fn a_component_of_many_parts_is_refused_as_it_would_take_those_of_others() {
    let host = Host::new();
    let component = written(&host, "parts.wasm", &with_core_instances(&plugin("argmax-label"), 100));
    let refused = host.run(["plugin", "inspect", &component]).failure(&host);
    assert!(refused.starts_with("exit 2\nerror: `[STATE]/parts.wasm` cannot be loaded: "), "{refused}");
    assert!(
        refused.contains("core module instances, which exceeds the configured maximum of 16"),
        "{refused}"
    );
    let few = written(&host, "few.wasm", &with_core_instances(&plugin("argmax-label"), 5));
    host.run(["plugin", "inspect", &few]).expect_success();
}

/// A component with another module, which is empty, and so many instances of it.
fn with_core_instances(component: &str, count: u8) -> Vec<u8> {
    let mut bytes = std::fs::read(component).unwrap();
    // Modules have a section each, of kind 1 (Component Model, "Binary Format").
    let (mut at, mut modules) = (8, 0);
    while at < bytes.len() {
        let kind = bytes[at];
        at += 1;
        let mut length = 0;
        for shift in (0..).step_by(7) {
            let byte = bytes[at];
            at += 1;
            length |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        modules += u8::from(kind == 1);
        at += length;
    }
    assert!(modules < 0x80 && count < 0x80, "each is one byte");
    bytes.extend_from_slice(b"\x01\x08\0asm\x01\0\0\0");
    let length = 1 + 3 * u16::from(count);
    bytes.extend_from_slice(&[2, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8, count]);
    for _ in 0..count {
        // Instantiates that module with nothing.
        bytes.extend_from_slice(&[0, modules, 0]);
    }
    bytes
}

/// A component with one more section.
fn with_section(component: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = std::fs::read(component).unwrap();
    bytes.push(kind);
    bytes.extend(leb(content.len()));
    bytes.extend_from_slice(content);
    bytes
}

/// A number as WebAssembly has it.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

#[test]
fn what_a_component_does_to_the_compiler_is_an_error_and_no_crash() {
    let host = Host::new();
    // A type of a component that declares one that declares one (Component Model, "Binary Format").
    let nested = [&[1][..], &b"\x41\x01\x01".repeat(20_000), b"\x41\0"].concat();
    let nested = written(&host, "nested.wasm", &with_section(&plugin("argmax-label"), 7, &nested));
    let refused = host.run(["plugin", "inspect", &nested]).failure(&host);
    assert!(
        refused.starts_with(
            "exit 3\nerror: `[STATE]/nested.wasm` cannot be loaded: the compiler cannot take it: it was killed by signal 6"
        ),
        "{refused}"
    );
    let bomb = written(&host, "bomb.wasm", &with_section(&plugin("argmax-label"), 1, &bomb(2_000, 1_000)));
    let refused = host.run(["plugin", "inspect", &bomb]).failure(&host);
    assert!(
        refused.starts_with("exit 3\nerror: `[STATE]/bomb.wasm` cannot be loaded: compiling it takes "),
        "{refused}"
    );
    assert!(
        refused.contains("more memory than the limit of 2147483648 bytes")
            || refused.contains("longer than the limit of 120 s of a processor"),
        "{refused}"
    );
}

/// A module of some kilobytes: blocks in blocks with so many results each, and a branch to all of them, each of which the
/// compiler gives all values.
fn bomb(blocks: usize, results: usize) -> Vec<u8> {
    let section = |kind: u8, content: Vec<u8>| [vec![kind], leb(content.len()), content].concat();
    let types = [b"\x02\x60\0\0\x60\0".to_vec(), leb(results), b"\x7f".repeat(results)].concat();
    let targets = (0..blocks).flat_map(leb).collect();
    let body = [
        b"\0".to_vec(),
        b"\x02\x01".repeat(blocks),
        b"\x41\0".repeat(results + 1),
        b"\x0e".to_vec(),
        leb(blocks - 1),
        targets,
        b"\x0b".repeat(blocks),
        b"\x1a".repeat(results),
        b"\x0b".to_vec(),
    ]
    .concat();
    let code = [b"\x01".to_vec(), leb(body.len()), body].concat();
    [b"\0asm\x01\0\0\0".to_vec(), section(1, types), section(3, b"\x01\0".to_vec()), section(10, code)]
        .concat()
}

#[test]
fn a_component_is_compiled_once_unless_its_code_is_damaged_and_nothing_is_left_where_none_is_kept() {
    use std::os::unix::fs::MetadataExt as _;
    let host = Host::new();
    let folder = host.state_dir().join("code");
    let scores = r#"{"inputs":[{"name":"scores","datatype":"FP32","shape":[1,2],"data":[0.25,0.75]}]}"#;
    let batch = written(&host, "scores.json", scores.as_bytes());
    let run = |code_cache: &str| {
        let component = plugin("argmax-label");
        let arguments = ["plugin", "run", &component, "--in", &batch, "--code-cache", code_cache];
        let ran =
            ran(host.command().env("TMPDIR", host.state_dir().join("tmp")).args(arguments).output().unwrap());
        assert_eq!(ran.expect_success().trim_end(), r#"[{"label":1,"probability":0.75}]"#);
    };
    let code = || {
        let versions = std::fs::read_dir(folder.join("modules")).unwrap().map(|entry| entry.unwrap().path());
        let files =
            versions.flat_map(|version| std::fs::read_dir(version).unwrap()).map(|entry| entry.unwrap());
        let code = files.filter(|file| file.path().extension().is_none());
        code.map(|file| (file.path(), file.metadata().unwrap().ino())).collect::<Vec<_>>()
    };
    std::fs::create_dir(host.state_dir().join("tmp")).unwrap();
    run(folder.to_str().unwrap());
    let compiled = code();
    assert_eq!(compiled.len(), 1, "{compiled:?}");
    run(folder.to_str().unwrap());
    assert_eq!(code(), compiled, "it was not compiled again");
    let entries = |folder: &Path| {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string());
        names.map(Result::unwrap).collect::<std::collections::BTreeSet<_>>()
    };
    // A cleaning of wasmtime's would have taken these away.
    let kept = [".cleanup.wip-host", "digests", "lock", "modules"].map(str::to_owned);
    assert_eq!(entries(&folder), kept.into());
    assert_eq!(entries(&folder.join("digests")).len(), 1);
    let (path, _) = &compiled[0];
    let mut damaged = std::fs::read(path).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(path, &damaged).unwrap();
    run(folder.to_str().unwrap());
    assert_ne!(std::fs::read(path).unwrap(), damaged, "it is compiled anew");
    run("none");
    assert_eq!(std::fs::read_dir(host.state_dir().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_plugin_that_misbehaves_has_an_exit_code_of_its_own() {
    let host = Host::new();
    for (behaviour, reason) in [
        ("loop", "ran longer than its limit of 300 ms"),
        ("memory", "needs more memory"),
        ("stack", "overflowed its stack"),
        ("huge-output", "returned more than its limit"),
        ("panic", "crashed"),
        ("malformed", "broke the contract"),
    ] {
        let config = misbehaviour(behaviour);
        // On a busy machine the others need more than a moment to reach their own limits.
        let call_max_ms = if behaviour == "loop" { "300" } else { "60000" };
        let ran = run_with_input(
            &host,
            &[
                "plugin",
                "run",
                &guest("misbehaving"),
                "--in",
                "-",
                "--config",
                &config,
                "--plugin-call-max-ms",
                call_max_ms,
            ],
            "[{\"x\": 1}]",
        );
        assert_eq!(ran.code, 3, "{behaviour}: {}", ran.stderr);
        assert!(ran.stderr.contains(reason), "{behaviour}: {}", ran.stderr);
        assert!(ran.stderr.contains("plugin `misbehaving` (sha256:"), "{behaviour}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked at"), "{}", ran.stderr);
    }
    let chatty = run_with_input(
        &host,
        &[
            "plugin",
            "run",
            &guest("misbehaving"),
            "--in",
            "-",
            "--config",
            "{\"behaviour\":\"chatty\"}",
            "-v",
        ],
        "[{\"x\": 1}]",
    );
    assert!(chatty.stderr.len() < 512 * 1024, "log lines are limited");
    assert!(
        chatty.stderr.contains("were dropped"),
        "{}",
        &chatty.stderr[chatty.stderr.len().saturating_sub(500)..]
    );
}

#[test]
fn of_what_a_plugin_says_no_more_is_copied_than_it_may_say() {
    let host = Host::new();
    let config = r#"{"behaviour":"long-lists"}"#;
    let arguments = ["plugin", "run", &guest("misbehaving"), "--in", "-", "--config", config, "-v"];
    let ran = run_with_input(&host, &arguments, "[{\"x\": 1}]");
    assert_eq!((ran.code, ran.stdout.trim_end()), (0, r#"[{"x":1}]"#), "{}", ran.stderr);
    for told in ["enough", "field=value", "dropped=1", r#"metric points Counter 2 [("label", "value")]"#] {
        assert!(ran.stderr.contains(told), "{told}: {}", ran.stderr);
    }
    for dropped in ["too much", "points Counter 1", "xxxx"] {
        assert!(!ran.stderr.contains(dropped), "{dropped}: {}", &ran.stderr[..ran.stderr.len().min(1_000)]);
    }
}

#[test]
fn every_malformed_answer_is_refused() {
    let host = Host::new();
    for how in [
        "short-data",
        "long-data",
        "duplicate-column",
        "row-count",
        "no-dimensions",
        "empty-name",
        "long-name",
        "name-not-text",
        "overflowing-shape",
        "overflowing-empty-shape",
        "byte-string",
    ] {
        let config = format!("{{\"behaviour\":\"malformed\",\"how\":\"{how}\"}}");
        let arguments = ["plugin", "run", &guest("misbehaving"), "--in", "-", "--config", &config];
        let ran = run_with_input(&host, &arguments, "[{\"x\": 1}]");
        assert_eq!(ran.code, 3, "{how}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains("broke the contract"), "{how}: {}", ran.stderr);
    }
    let arguments =
        ["plugin", "run", &guest("misbehaving"), "--in", "-", "--config", "{\"behaviour\":\"wrong-place\"}"];
    let ran = run_with_input(&host, &arguments, "[{\"x\": 1}]");
    assert_eq!(ran.code, 2);
    assert!(!ran.stderr.contains('\u{1b}') && !ran.stderr.contains("row 1844"), "{}", ran.stderr);
}

#[test]
fn a_fresh_instance_remembers_nothing() {
    let host = Host::trained();
    let file = guest("misbehaving");
    let config = "misbehaving={\"behaviour\":\"remember\"}";
    let arguments = ["--model", "mnist", "--postprocess", &file, "--config", config, "--fresh-instances"];
    let server = host.serve(arguments);
    let body = host_tests::pixels_json(&host_tests::test_images()[0]);
    let first = server.post("/serve/mnist", &body);
    assert_eq!(first.body, "{\"calls\":1}");
    for _ in 0..5 {
        assert_eq!(server.post("/serve/mnist", &body), first);
    }
}

#[test]
fn build_makes_a_component_that_loads() {
    let host = Host::new();
    let out = host.state_dir().join("argmax.wasm");
    let crate_folder = repository().join("plugins/argmax-label");
    let built = host
        .run(["plugin", "build", crate_folder.to_str().unwrap(), "-o", out.to_str().unwrap(), "--json"])
        .json();
    let told = host.run(["plugin", "inspect", out.to_str().unwrap(), "--json"]).json();
    assert_eq!(built["digest"], told["digest"]);
    let nowhere = host.run(["plugin", "build", host.state_dir().to_str().unwrap()]);
    assert_eq!(nowhere.code, 2);
    assert!(nowhere.stderr.contains("Cargo.toml"), "{}", nowhere.stderr);
    assert!(!Path::new(&host.state_dir().join("target")).exists());
}

#[test]
fn run_takes_transformers_and_fits_what_learns() {
    let host = Host::new();
    let batch = host.state_dir().join("batch.json");
    std::fs::write(&batch, r#"[{"scores": [0.25, 0.75]}]"#).unwrap();
    let batch = batch.to_str().unwrap();
    let refused = host.run(["plugin", "run", &plugin("psi"), "--in", batch]);
    assert_eq!(refused.code, 2);
    assert!(
        refused.stderr.contains("is a detector, which is run by `host monitor run`"),
        "{}",
        refused.stderr
    );
    let refused = host.run(["plugin", "run", &plugin("argmax-label"), "--in", batch, "--fit", batch]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("learns nothing: leave out `--fit`"), "{}", refused.stderr);
}

#[test]
fn a_plugin_builds_with_its_own_flags_whatever_the_environment_says() {
    let host = Host::new();
    let component = host.state_dir().join("argmax-label.wasm");
    let folder = repository().join("plugins/argmax-label");
    let mut build = host.command();
    build.env("RUSTFLAGS", "--no-such-flag").env("CARGO_ENCODED_RUSTFLAGS", "--no-such-flag");
    let built = build.args(["plugin", "build"]).arg(folder).arg("-o").arg(&component).output().unwrap();
    ran(built).expect_success();
    // The same bytes as those that were built without.
    assert!(std::fs::read(component).unwrap() == std::fs::read(plugin("argmax-label")).unwrap());
}
