//! A million images through a component by `host transform`, beside the same Rust function called natively.
//!
//! The peer reads the same files and writes files like the program's: once plainly, and once with the digests and the
//! statistics that a version of a dataset has. All end when what they wrote is on the disk.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{fresh_folder, report};
use crate::error::{Context as _, Error, Result};
use crate::layout::Layout;
use crate::mnist::{PIXELS, TestImages};
use crate::session::Session;
use crate::setup::{self, Scope};
use crate::statistics::median;
use crate::{process, terminal};

/// Images in all: 784 MB, which become 3.1 GB.
const ROWS: usize = 1_000_000;

/// Images of a file.
const FILE_ROWS: usize = 50_000;

/// How often the program's memory is looked at.
const POLL: Duration = Duration::from_millis(20);

/// What one round measured.
struct Round {
    plain_s: f64,
    same_s: f64,
    host_s: f64,
    host_peak_mib: f64,
}

pub(super) fn run(layout: &Layout, rounds: u32) -> Result<()> {
    setup::run(layout, Scope::Demo)?;
    let mut build = setup::cargo(layout);
    build.args(["build", "--release", "--workspace", "--lib", "--bins", "--examples"]);
    process::run(&mut build, "build the native peer")?;
    let folder = layout.cache().join("bench/transform");
    terminal::heading(&format!("Transforming {ROWS} images in {}", folder.display()));
    let measured = measure(layout, &folder, rounds);
    let removed = std::fs::remove_dir_all(&folder);
    let rows = [head(), row(&measured?)];
    removed.context(format_args!("remove `{}`", folder.display()))?;
    let result = report::table(&rows, rows.first().map_or(0, Vec::len));
    terminal::line(&format!("\n{result}"));
    report::write(layout, "transform", &format!("cargo xtask bench transform --rounds {rounds}"), &result)
}

fn measure(layout: &Layout, folder: &Path, rounds: u32) -> Result<Vec<Round>> {
    fresh_folder(folder)?;
    let input = folder.join("input");
    write_images(&TestImages::read(&layout.mnist())?, &input, ROWS, FILE_ROWS)?;
    sync(&input)?;
    let native = |mode: &str| {
        let out = folder.join("native");
        fresh_folder(&out)?;
        let mut peer = Command::new(layout.target().join("release/examples/native_transform"));
        let started = Instant::now();
        process::run(peer.arg(&input).arg(&out).arg(mode), "transform natively")?;
        let seconds = started.elapsed().as_secs_f64();
        std::fs::remove_dir_all(&out).context(format_args!("remove `{}`", out.display()))?;
        Ok(seconds)
    };
    let mut measured = Vec::new();
    for round in 1..=rounds {
        let (plain_s, same_s) = (native("plain")?, native("same")?);
        let (host_s, host_peak_mib) = transform(layout, &input, &folder.join("state"))?;
        terminal::line(&format!(
            "round {round}  native {plain_s:.1} s, with digests and statistics {same_s:.1} s  host {host_s:.1} s, {host_peak_mib:.0} MiB"
        ));
        measured.push(Round { plain_s, same_s, host_s, host_peak_mib });
    }
    Ok(measured)
}

/// Adds the images to a fresh state and transforms them; gives seconds and peak memory of the latter.
fn transform(layout: &Layout, input: &Path, state: &PathBuf) -> Result<(f64, f64)> {
    fresh_folder(state)?;
    let session = Session::new(layout, state.clone());
    process::run(session.host(["--quiet", "data", "add", "images"]).arg(input), "add the images")?;
    sync(state)?;
    let mut command = session.host(["--quiet", "transform", "images", "--name", "scaled", "--preprocess"]);
    command.arg(session.plugin("mnist-pixels"));
    let started = Instant::now();
    let mut child = command.spawn().context("start the program")?;
    let mut peak_kib = 0.0_f64;
    let status = loop {
        if let Some(status) = child.try_wait().context("wait for the program")? {
            break status;
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        peak_kib = peak_kib.max(peak(&status).unwrap_or_default());
        std::thread::sleep(POLL);
    };
    let seconds = started.elapsed().as_secs_f64();
    if !status.success() {
        return Err(Error::new(format!("failed to transform the images: the program ended with {status}")));
    }
    std::fs::remove_dir_all(state).context(format_args!("remove `{}`", state.display()))?;
    Ok((seconds, peak_kib / 1024.0))
}

/// The most memory that a process ever had, of its `/proc/PID/status`, in KiB.
fn peak(status: &str) -> Option<f64> {
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().split(' ').next()?.parse().ok())
}

fn sync(folder: &Path) -> Result<()> {
    process::run(Command::new("sync").arg("-f").arg(folder), "wait for the disk")
}

/// Writes images and labels as safetensors files. No two images are the same, for the program stores no file twice.
fn write_images(images: &TestImages, folder: &Path, rows: usize, file_rows: usize) -> Result<()> {
    fresh_folder(folder)?;
    let images: Vec<_> = images.iter().collect();
    let mut images = images.iter().cycle().zip(0_u32..);
    for number in 0..rows.div_ceil(file_rows) {
        let path = folder.join(format!("train-{number:02}.safetensors"));
        let rows = file_rows.min(rows - number * file_rows);
        let pixels = rows * PIXELS;
        let header = format!(
            r#"{{"pixels":{{"dtype":"U8","shape":[{rows},28,28],"data_offsets":[0,{pixels}]}},"label":{{"dtype":"U8","shape":[{rows}],"data_offsets":[{pixels},{}]}}}}"#,
            pixels + rows
        );
        let mut labels = Vec::with_capacity(rows);
        let mut write = || -> std::io::Result<()> {
            let mut file = BufWriter::new(File::create(&path)?);
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(header.as_bytes())?;
            for (image, row) in images.by_ref().take(rows) {
                let (_, rest) = image.pixels.split_at(4);
                file.write_all(&row.to_le_bytes())?;
                file.write_all(rest)?;
                labels.push(image.label);
            }
            file.write_all(&labels)?;
            file.flush()
        };
        write().context(format_args!("write `{}`", path.display()))?;
    }
    Ok(())
}

fn head() -> Vec<String> {
    let names = [
        "images",
        "GB in",
        "GB out",
        "native, s",
        "native with digests and statistics, s",
        "`host transform`, s",
        "speed of native",
        "speed of the same natively",
        "peak memory of `host`, MiB",
    ];
    names.map(str::to_owned).to_vec()
}

fn row(rounds: &[Round]) -> Vec<String> {
    let of = |which: fn(&Round) -> f64| median(&rounds.iter().map(which).collect::<Vec<_>>());
    let (plain, same, host) = (of(|round| round.plain_s), of(|round| round.same_s), of(|round| round.host_s));
    let gigabytes = (ROWS * PIXELS) as f64 / 1e9;
    vec![
        ROWS.to_string(),
        format!("{gigabytes:.1}"),
        format!("{:.1}", gigabytes * 4.0),
        format!("{plain:.1}"),
        format!("{same:.1}"),
        format!("{host:.1}"),
        format!("{:.0} %", 100.0 * plain / host),
        format!("{:.0} %", 100.0 * same / host),
        format!("{:.0}", of(|round| round.host_peak_mib)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_medians_and_speeds() {
        let round = |host_s| Round { plain_s: 3.0, same_s: 4.0, host_s, host_peak_mib: 200.0 };
        let row = row(&[round(5.0), round(5.0), round(9.0)]);
        assert_eq!(row.join(" "), "1000000 0.8 3.1 3.0 4.0 5.0 60 % 80 % 200");
        assert_eq!(head().len(), row.len());
    }

    #[test]
    fn the_peak_is_in_the_status() {
        assert_eq!(peak("VmPeak:\t 9 kB\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB"), Some(2_048.0));
        assert_eq!(peak(""), None);
    }

    #[test]
    fn files_have_the_rows_that_their_headers_say() {
        let data = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../examples/mnist/data");
        let folder = std::env::temp_dir().join(format!("host-bench-transform-{}", std::process::id()));
        write_images(&TestImages::read(&data).unwrap(), &folder, 25, 10).unwrap();
        let bytes = std::fs::read(folder.join("train-02.safetensors")).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        assert!(bytes[8..8 + length].ends_with(br#"[3920,3925]}}"#));
        assert_eq!(bytes.len(), 8 + length + 5 * (PIXELS + 1));
        assert_eq!(bytes[8 + length], 20, "images count up");
    }
}
