//! The images of a session's prompts: their bytes go into files, once, before the record that names
//! them; a message with references comes back with the bytes that are there.
//! Never trusts what lies in a file: bytes that are not the image's leave the reference as it is.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::{JournalError, make_private_dir};
use crate::llm::message::{Image, Message};

/// Where they lie in a session's folder.
const FOLDER: &str = "images";

/// Writes each image, whole and on the disk, unless it is there.
pub(super) fn keep(dir: &Path, images: &[Image]) -> Result<(), JournalError> {
    if images.is_empty() {
        return Ok(());
    }
    let folder = dir.join(FOLDER);
    make_private_dir(&folder)?;
    for image in images {
        let (Some(name), Some(data)) = (image.file_name(), image.data()) else { continue };
        let path = folder.join(&name);
        if read(&path, image).is_some() {
            continue;
        }
        let written = write(&folder.join(format!("{name}.part")), &path, data);
        written.map_err(|cause| JournalError::Unwritable { path, cause })?;
    }
    Ok(())
}

fn write(part: &Path, path: &PathBuf, data: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(part)?;
    file.write_all(data)?;
    file.sync_data()?;
    std::fs::rename(part, path)
}

/// Gives a message's images their bytes; returns how many of them are gone.
pub(crate) fn load(dir: &Path, message: &mut Message) -> usize {
    let Message::User { images, .. } = message else { return 0 };
    let mut gone = 0;
    for image in images.iter_mut().filter(|image| image.data().is_none()) {
        let path = image.file_name().map(|name| dir.join(FOLDER).join(name));
        match path.and_then(|path| read(&path, image)) {
            Some(found) => *image = found,
            None => gone += 1,
        }
    }
    gone
}

fn read(path: &Path, image: &Image) -> Option<Image> {
    let mut data = Vec::new();
    let mut file = File::open(path).ok()?.take(image.len() as u64 + 1);
    file.read_to_end(&mut data).ok()?;
    let found = image.clone().with_data(data.into());
    found.data().is_some().then_some(found)
}
