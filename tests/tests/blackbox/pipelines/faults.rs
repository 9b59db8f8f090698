//! Steps that hang, die, print without end or want too much; pipelines that are killed or started twice.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{ledger, pipeline, running, statuses};
use crate::place::Place;

/// Longest that anything may take which a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what} took too long");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a pipeline of one step that fails; gives the reason.
fn reason(place: &Place, name: &str, step: &str) -> String {
    let file = pipeline(place, name, &format!("steps:\n  a:\n    uses: command\n{step}"));
    let ran = place.run(&["pipeline", "run", &file, "--json"]);
    assert_eq!(ran.code, 5, "{}\n{}", ran.stdout, ran.stderr);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    report["steps"][0]["reason"].as_str().unwrap().to_owned()
}

#[test]
fn a_step_that_misbehaves_is_ended_and_told() {
    let place = Place::local();
    // Also what it has started, and although that ignores being asked.
    let pid = place.folder().join("pid");
    let hang = format!(
        "    with: {{ run: 'trap \"\" TERM; sleep 1000 & echo $! > {}; sleep 1000; sleep 1000' }}\n    timeout: 300ms\n",
        pid.display()
    );
    assert_eq!(reason(&place, "hangs", &hang), "it took longer than 300ms");
    let child = std::fs::read_to_string(&pid).unwrap();
    wait_until("ending what it started", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
    assert_eq!(reason(&place, "dies", "    with: { run: 'kill -9 $$' }\n"), "it was killed by signal 9");
    let missing = reason(&place, "missing", "    with: { run: [no-such-program] }\n");
    assert!(missing.contains("failed to start `no-such-program`"), "{missing}");
    let unwritten = reason(&place, "unwritten", "    with: { run: 'true' }\n    outputs: [model]\n");
    assert_eq!(unwritten, "it wrote no output `model`");
    let garbled = reason(&place, "garbled", "    with: { run: 'echo model >> $HOST_OUTPUTS' }\n");
    assert_eq!(garbled, "line 1 of its outputs is not `name=value`");
    let file = reason(&place, "file", "    with: { run: 'true', inputs: [nothing.txt] }\n");
    assert!(file.starts_with("`nothing.txt` cannot be read"), "{file}");
    let outside = reason(&place, "outside", "    with: { run: 'true', inputs: ['../x'] }\n");
    assert!(
        outside.contains("expected paths within the pipeline's folder") || outside.contains("cannot be read"),
        "{outside}"
    );
    let greedy = reason(
        &place,
        "greedy",
        "    with: { run: [python3, -c, 'x = bytearray(1 << 30)'] }\n    resources: { memory: 200MiB }\n",
    );
    assert!(greedy.contains("MemoryError"), "{greedy}");
    assert_eq!(running(&place), 0);
}

#[test]
fn a_step_that_prints_a_gigabyte_fills_neither_memory_nor_disk() {
    let place = Place::local();
    let steps = "steps:\n  a: { uses: command, with: { run: 'yes | head -c 1000000000; echo end' } }\n";
    let file = pipeline(&place, "prints", steps);
    let mut child = place
        .command()
        .args(["pipeline", "run", &file, "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut peak = 0;
    wait_until("printing", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
        peak = peak.max(line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0));
        child.try_wait().unwrap().is_some()
    });
    assert!(child.wait().unwrap().success());
    assert!(peak < 200_000, "{peak} kB");
    let server = place.server();
    let found = place.json(&["pipeline", "show", "prints"]);
    let run_id = found["steps"][0]["run_id"].as_str().unwrap();
    let run = server.get(&format!("/api/2.0/mlflow/runs/get?run_id={run_id}")).json();
    let uri = run["run"]["info"]["artifact_uri"].as_str().unwrap().replace("mlflow-artifacts:/", "");
    let log = server.get(&format!("/api/2.0/mlflow-artifacts/artifacts/{uri}/log.txt")).body;
    assert!(log.len() < 1_000_000 && log.ends_with("y\nend\n") && log.contains("bytes left out"));
}

#[test]
fn a_step_that_fills_the_disk_fails_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pipeline.yaml");
    let steps = "version: 1\nname: fills\nsteps:\n  \
                 fill: { uses: command, with: { run: 'head -c 200000000 /dev/zero > big' } }\n  \
                 hand: { uses: command, with: { run: 'head -c 200000000 /dev/zero > $HOST_FILES_OUT/big' } }\n  \
                 after: { uses: command, with: { run: 'true' } }\n";
    std::fs::write(&file, steps).unwrap();
    let script = r#"
        mkdir "$1/state" && mount -t tmpfs -o size=40m none "$1/state" || exit 90
        export HOST_STATE_DIR="$1/state"
        "$2" --quiet pipeline run "$1/pipeline.yaml" --cores 1 --json
        code=$?
        find "$1/state/temporary" -type f -not -name .lock >&2
        exit $code
    "#;
    let host = host_tests::Host::new();
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "bash", "-c", script, "bash"])
        .arg(folder.path())
        .arg(host.command().get_program())
        .env_remove("HOST_DATABASE")
        .env_remove("HOST_BLOBS")
        .output()
        .unwrap();
    let ran = host_tests::ran(output);
    assert_eq!((ran.code, ran.stderr.as_str()), (5, ""), "{}", ran.stdout);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let step = |place: usize| &report["steps"][place];
    for place in [0, 1] {
        assert!(step(place)["reason"].as_str().unwrap().contains("No space left on device"), "{report}");
    }
    assert_eq!(step(2)["status"], "finished");
}

/// A pipeline of steps one after the other that write to a ledger when they have done their work.
fn chain(place: &Place, name: &str, steps: usize, ledger: &Path) -> String {
    let steps: String = (0..steps)
        .map(|step| {
            let needs = if step > 0 { format!("needs: [s{}], ", step - 1) } else { String::new() };
            format!(
                "  s{step}: {{ uses: command, {needs}with: {{ run: 'sleep 0.05; echo s{step} >> {}' }} }}\n",
                ledger.display()
            )
        })
        .collect();
    pipeline(place, name, &format!("steps:\n{steps}"))
}

#[test]
fn killed_at_any_moment_it_goes_on_without_losing_or_doubling_work() {
    let place = Place::local();
    const STEPS: usize = 8;
    for (round, moment_ms) in [0, 40, 90, 150, 230, 310, 420].into_iter().enumerate() {
        let path = place.folder().join(format!("ledger-{round}"));
        let name = format!("killed{round}");
        let file = chain(&place, &name, STEPS, &path);
        let mut child = place
            .command()
            .args(["pipeline", "run", &file, "--quiet"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("starting", || {
            let listed = place.json(&["pipeline", "list", "--name", &name]);
            !listed.as_array().unwrap().is_empty() || child.try_wait().unwrap().is_some()
        });
        std::thread::sleep(Duration::from_millis(moment_ms));
        child.kill().unwrap();
        child.wait().unwrap();
        let before = place.json(&["pipeline", "show", &name]);
        let done: Vec<String> = statuses(&before)
            .into_iter()
            .filter(|(_, status)| status == "finished")
            .map(|(step, _)| step)
            .collect();
        if before["status"] != "finished" {
            assert_eq!(before["status"], "interrupted", "{before}");
            let after = place.json(&["pipeline", "resume", &name]);
            assert_eq!(after["status"], "finished", "{after}");
            assert_eq!(after["run_id"], before["run_id"]);
        }
        let lines = ledger(&path);
        for step in 0..STEPS {
            let name = format!("s{step}");
            let times = lines.iter().filter(|line| **line == name).count();
            // One that was under way may have done its work without having been able to say so.
            let most = if done.contains(&name) { 1 } else { 2 };
            assert!(
                (1..=most).contains(&times),
                "killed after {moment_ms} ms: {name} {times} times: {lines:?}"
            );
        }
        assert!(lines.len() <= STEPS + 1, "at most the one that was under way: {lines:?}");
        assert_eq!(running(&place), 0, "killed after {moment_ms} ms");
    }
}

#[test]
fn steps_end_with_the_process_that_started_them() {
    let place = Place::local();
    let pid = place.folder().join("pid");
    std::fs::create_dir_all(place.folder()).unwrap();
    let steps = format!(
        "steps:\n  a: {{ uses: command, with: {{ run: 'echo $$ > {}; exec sleep 1000' }} }}\n",
        pid.display()
    );
    let file = pipeline(&place, "orphan", &steps);
    let mut child =
        place.command().args(["pipeline", "run", &file, "--quiet"]).stdout(Stdio::null()).spawn().unwrap();
    let read = || std::fs::read_to_string(&pid).unwrap_or_default().trim().to_owned();
    wait_until("starting", || !read().is_empty());
    let (code, said) = place.refused(&["pipeline", "resume", "orphan"]);
    assert!(code == 2 && said.contains(&format!("is being run by process {}", child.id())), "{said}");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("ending the step", || !Path::new(&format!("/proc/{}", read())).exists());
}

#[test]
fn stopped_by_the_keyboard_it_says_so_and_can_go_on() {
    let place = Place::local();
    let path = place.folder().join("ledger");
    let file = chain(&place, "stopped", 20, &path);
    let child = place
        .command()
        .args(["pipeline", "run", &file, "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the third step", || ledger(&path).len() >= 3);
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["status"], "cancelled");
    assert_eq!(running(&place), 0);
    assert_eq!(place.json(&["pipeline", "resume", "stopped"])["status"], "finished");
    assert!(ledger(&path).len() <= 21);
}

#[test]
fn two_runs_of_one_pipeline_do_not_disturb_each_other() {
    let place = Place::local();
    let path = place.folder().join("ledger");
    let file = chain(&place, "twice", 5, &path);
    let start = || {
        let arguments = ["pipeline", "run", &file, "--json"];
        place.command().args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let both = [start(), start()];
    for child in both {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["status"], json!("finished"));
    }
    assert!((5..=10).contains(&ledger(&path).len()));
    assert_eq!(place.json(&["pipeline", "list", "--name", "twice"]).as_array().unwrap().len(), 2);
    assert_eq!(running(&place), 0);
}
