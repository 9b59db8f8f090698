//! The model that the benches of serving ask, and what they ask it.

use std::path::{Path, PathBuf};

use super::{PARAMETERS, fresh_session};
use crate::error::{Context as _, Result};
use crate::layout::Layout;
use crate::mnist::{self, TestImages};
use crate::session::Session;
use crate::terminal;

/// Test images that are asked for in turn; one alone would be in every cache.
const IMAGES: usize = 500;

/// A trained model with requests for it, kept from one bench to the next while the plugins are the same.
pub(super) struct ServedModel<'a> {
    /// Has the model `mnist`.
    pub(super) session: Session<'a>,
    /// Has the session's `state/`, the bundle in `bundle/` and `bodies.jsonl`.
    pub(super) folder: PathBuf,
    pub(super) bodies: Vec<Vec<u8>>,
    /// `bodies`, one a line.
    pub(super) bodies_file: PathBuf,
}

impl<'a> ServedModel<'a> {
    /// Trains the model where that is not done.
    pub(super) fn ensure(layout: &'a Layout) -> Result<Self> {
        let folder = layout.cache().join("bench/serving");
        let session = trained(layout, &folder)?;
        let bodies = request_bodies(layout)?;
        let bodies_file = folder.join("bodies.jsonl");
        std::fs::write(&bodies_file, bodies.join(&b'\n')).context("write the requests")?;
        Ok(Self { session, folder, bodies, bodies_file })
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

fn request_bodies(layout: &Layout) -> Result<Vec<Vec<u8>>> {
    let images = TestImages::read(&layout.mnist())?;
    Ok(images.iter().take(IMAGES).map(|image| mnist::request_body(image.pixels.iter().copied())).collect())
}
