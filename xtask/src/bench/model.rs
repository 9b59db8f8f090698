//! The model that the benches of serving ask, and what they ask it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use super::{PARAMETERS, fresh_session};
use crate::error::{Context as _, Error, Result};
use crate::layout::Layout;
use crate::mnist::{self, TestImages};
use crate::session::Session;
use crate::{process, terminal};

/// Test images that are asked for in turn; one alone would be in every cache.
const IMAGES: usize = 500;

/// A trained model with requests for it, kept from one bench to the next while the plugins are the same.
pub(super) struct ServedModel<'a> {
    /// Has the model `mnist`.
    pub(super) session: Session<'a>,
    /// Has the session's `state/`, the bundle in `bundle/`, and `bodies.jsonl` with a request for each image in a line.
    pub(super) folder: PathBuf,
    /// Pixels of test images.
    pub(super) images: Vec<Vec<u8>>,
}

/// Versions of the model `small`, each a little different.
pub(super) const SMALL_VERSIONS: u32 = 4;

/// How they are trained: trees as many and as deep as those of `mnist`, of few rows, within half a minute.
const SMALL: [&str; 4] = ["--train-rows", "5000", "--set", "subsample=0.8"];

impl<'a> ServedModel<'a> {
    /// Trains the model where that is not done.
    pub(super) fn ensure(layout: &'a Layout) -> Result<Self> {
        let folder = layout.cache().join("bench/serving");
        let session = trained(layout, &folder)?;
        let images = TestImages::read(&layout.mnist())?;
        let images: Vec<Vec<u8>> = images.iter().take(IMAGES).map(|image| image.pixels.to_vec()).collect();
        let bodies: Vec<Vec<u8>> =
            images.iter().map(|pixels| mnist::request_body(pixels.iter().copied())).collect();
        std::fs::write(folder.join("bodies.jsonl"), bodies.join(&b'\n')).context("write the requests")?;
        Ok(Self { session, folder, images })
    }

    /// Trains the versions of `small` that are missing.
    pub(super) fn ensure_small(&self) -> Result<()> {
        for version in 1..=SMALL_VERSIONS {
            let mut show = self.session.host(["--quiet", "model", "show"]);
            if process::succeeds(show.arg(format!("small@{version}"))) {
                continue;
            }
            terminal::heading(&format!(
                "Training a small model, {version} of {SMALL_VERSIONS}, once for all"
            ));
            let seed = version.to_string();
            let mut train = self.session.train_as("small", PARAMETERS);
            self.session.run(train.args(SMALL).args(["--seed", &seed]), "train a small model")?;
        }
        Ok(())
    }

    /// The folder of a bundle, which is exported where that is not done.
    pub(super) fn bundle(&self, model: &str) -> Result<PathBuf> {
        let bundles = self.folder.join("bundles");
        let folder = bundles.join(model);
        if !folder.join("bundle.json").is_file() {
            std::fs::create_dir_all(&bundles).context(format_args!("create `{}`", bundles.display()))?;
            let mut export = self.session.host(["--quiet", "model", "export", model]);
            process::run(export.arg(&folder).stdout(Stdio::null()), "export a bundle")?;
        }
        Ok(folder)
    }

    /// Bytes of the file of a model, `NAME` or `NAME@VERSION`.
    pub(super) fn file_bytes(&self, model: &str) -> Result<u64> {
        let mut show = self.session.host(["--quiet", "--json", "model", "show", model]);
        let shown = process::read_json(&mut show, "look at a model")?;
        let size = shown.pointer("/manifest/model/blob/size").and_then(Value::as_u64);
        size.ok_or_else(|| Error::new(format!("`host model show {model}` tells no size of its file")))
    }
}

fn trained<'a>(layout: &'a Layout, folder: &Path) -> Result<Session<'a>> {
    let plugins = ["mnist-pixels", "argmax-label"].map(|name| (layout.plugin(name), folder.join(name)));
    let read = |path: &PathBuf| std::fs::read(path).ok();
    let is_same = plugins.iter().all(|(built, used)| read(built) == read(used));
    if is_same && folder.join("bundle/bundle.json").is_file() {
        terminal::note(&format!(
            "serving the model of the last bench: remove {} to train again",
            folder.display()
        ));
        return Ok(Session::new(layout, folder.join("state")));
    }
    terminal::heading("Training, once for all benches of serving");
    let session = fresh_session(layout, folder.to_owned())?;
    session.run(&mut session.train(PARAMETERS), "train the model")?;
    let mut export = session.host(["model", "export", "mnist"]);
    session.run(export.arg(folder.join("bundle")), "export the bundle")?;
    for (built, used) in plugins {
        std::fs::copy(&built, used).context(format_args!("copy `{}`", built.display()))?;
    }
    Ok(session)
}
