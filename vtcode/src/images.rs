//! Images that the user gives with a task: names of files come in, images that a model can be shown
//! come out. A name given to `-i` is the user's own will and may lead anywhere; `@` in a prompt stays
//! in the workspace, as for all files.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use vtcode_core::llm::message::{Image, ImageError, ImageRules, MAX_IMAGE_BYTES};

use crate::exit::Usage;

/// Reads the files that `-i` names.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<Image>, Usage> {
    paths.iter().map(|path| read_one(path)).collect()
}

fn read_one(path: &Path) -> Result<Image, Usage> {
    let unusable = |why: &dyn std::fmt::Display| {
        Usage(format!("cannot send `{}` as an image: {why}", path.display()))
    };
    // A pipe that nobody writes to must not hold us up.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = file.map_err(|error| unusable(&error))?;
    let about = file.metadata().map_err(|error| unusable(&error))?;
    if !about.is_file() {
        return Err(unusable(&"it is no file"));
    }
    let too_large = |bytes| unusable(&ImageError::TooLarge { bytes, limit_bytes: MAX_IMAGE_BYTES });
    if about.len() > MAX_IMAGE_BYTES as u64 {
        return Err(too_large(about.len()));
    }
    let mut data = Vec::new();
    file.take(MAX_IMAGE_BYTES as u64 + 1).read_to_end(&mut data).map_err(|e| unusable(&e))?;
    if data.len() > MAX_IMAGE_BYTES {
        // It grew meanwhile, or lies where sizes say nothing.
        return Err(too_large(data.len() as u64));
    }
    Image::new(data).map_err(|error| unusable(&error))
}

/// Refuses images that this model does not take, before anything is sent or kept.
pub(crate) fn check(images: &[Image], rules: &ImageRules, model: &str) -> Result<(), Usage> {
    rules
        .check(images)
        .map_err(|error| Usage(format!("cannot send the images to {model}: {error}")))
}
