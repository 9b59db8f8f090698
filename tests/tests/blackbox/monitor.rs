//! `host monitor run`: rows like the training's are stable, inverted ones are not.

use host_tests::{Host, Server, pixels_json, plugin, test_images};

fn send(server: &Server, images: impl Iterator<Item = Vec<u8>>) {
    for image in images {
        assert_eq!(server.post("/serve/watched", &pixels_json(&image)).status, 200);
    }
}

#[test]
fn drift_is_noticed_and_its_absence_too() {
    let host = Host::trained();
    let server = host.serve(["--model", "mnist", "--endpoint", "watched"]);
    let detector = plugin("psi");
    let run = |rows: &str| {
        let arguments =
            ["monitor", "run", "--endpoint", "watched", "--model", "mnist", "--detector", &detector];
        host.run(arguments.into_iter().chain(["--rows", rows, "--json"]))
    };
    let early = run("100");
    assert_eq!(early.code, 2);
    assert!(early.stderr.contains("has no window yet"), "{}", early.stderr);

    send(&server, test_images().iter().take(300).cloned());
    server.wait_for_window(300);
    let same = run("300");
    assert_eq!(same.code, 0, "{}", same.stdout);
    let report = same.json();
    assert_eq!(report["verdict"], "stable", "{report}");
    assert_eq!(report["window_rows"], 300);

    let inverted = |image: &Vec<u8>| image.iter().map(|pixel| 255 - pixel).collect();
    send(&server, test_images().iter().take(300).map(inverted));
    server.wait_for_window(600);
    let drifted = run("300");
    assert_eq!(drifted.code, 4, "{}", drifted.stderr);
    let report: serde_json::Value = serde_json::from_str(&drifted.stdout).unwrap();
    assert_eq!(report["verdict"], "drifted");
    let scores = report["scores"].as_array().unwrap();
    let value =
        |score: &serde_json::Value| score["value"].as_f64().unwrap() / score["threshold"].as_f64().unwrap();
    assert_eq!(scores[0]["verdict"], "drifted");
    assert!(value(&scores[0]) >= value(&scores[1]), "worst first");
    drop(server);

    let transformer = plugin("argmax-label");
    let wrong =
        host.run(["monitor", "run", "--endpoint", "watched", "--model", "mnist", "--detector", &transformer]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("it is a transformer, and a detector is needed here"), "{}", wrong.stderr);
}

#[test]
fn rows_are_on_disk_when_the_server_has_stopped() {
    let host = Host::trained();
    let server = host.serve(["--model", "mnist", "--endpoint", "brief"]);
    for image in &test_images()[..40] {
        assert_eq!(server.post("/serve/brief", &pixels_json(image)).status, 200);
    }
    assert_eq!(server.stop().code, 0);
    let detector = plugin("psi");
    let arguments =
        ["monitor", "run", "--endpoint", "brief", "--model", "mnist", "--detector", &detector, "--json"];
    let report = host.run(arguments).json();
    assert_eq!(report["window_rows"], 40);
}
