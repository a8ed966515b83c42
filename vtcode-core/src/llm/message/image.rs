//! Images of a prompt: the bytes of a file come in, a typed image comes out, or words that say why
//! it is none. What an image is, its first bytes say, never its name.
//! Never decodes a picture and never scales one: what is sent is what the file holds.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// About what one image takes of a model's window, in tokens. Providers scale what is larger down
/// to this: Anthropic's documents say width × height / 750 and at most about 1,600, OpenAI's and
/// Google's tiles come to less for a screen.
pub const IMAGE_TOKENS: usize = 1600;

/// Bytes of text that are about one token.
const BYTES_PER_TOKEN: usize = 4;

/// The most images of one prompt, as the strictest wire takes them.
const MAX_IMAGES: usize = 20;

/// The most bytes of all images of one prompt: written as text, they must fit into the 20 MB that
/// the strictest wire takes of a request, and leave room for the conversation.
const MAX_ALL_BYTES: usize = 14 << 20;

/// The most bytes of one image where the wire sets no bound of its own: 14 MiB, which is what all
/// images of a prompt may have together. As base64 they fit into the 20 MB that the strictest wire
/// takes of a request.
pub const MAX_IMAGE_BYTES: usize = MAX_ALL_BYTES;

/// What kind of image it is; all wires take these four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageKind {
    /// Portable Network Graphics.
    Png,
    /// JPEG.
    Jpeg,
    /// GIF; models look at its first frame.
    Gif,
    /// WebP.
    Webp,
}

impl ImageKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Png, Self::Jpeg, Self::Gif, Self::Webp];

    /// Returns what a file is whose first bytes are these; 12 of them are enough.
    pub fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::Webp),
            _ => None,
        }
    }

    /// Returns the media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Gif => "image/gif",
            Self::Webp => "image/webp",
        }
    }

    fn extension(self) -> &'static str {
        self.media_type().trim_start_matches("image/")
    }
}

/// An image: what it is, and its bytes, which clones share. Written down, it is a reference; the
/// bytes lie in a file of the session, once.
#[derive(Clone, Serialize, Deserialize)]
pub struct Image {
    kind: ImageKind,
    /// The hash of the bytes; two images with the same one are the same.
    hash: String,
    bytes: usize,
    #[serde(skip)]
    data: Option<Bytes>,
}

impl Image {
    /// Returns the image that a file with these bytes is. Fails when they do not begin as one of
    /// the four kinds does; the size is not looked at.
    pub fn new(data: impl Into<Bytes>) -> Result<Self, ImageError> {
        let data = data.into();
        let kind = ImageKind::of(&data).ok_or_else(|| ImageError::Unknown { is: looks(&data) })?;
        let hash = blake3::hash(&data).to_hex()[..32].to_owned();
        Ok(Self { kind, hash, bytes: data.len(), data: Some(data) })
    }

    /// Returns what kind it is.
    pub fn kind(&self) -> ImageKind {
        self.kind
    }

    /// Returns how many bytes its file has.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Returns whether it has no bytes; none has.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Returns its bytes; none where only the reference is at hand.
    pub fn data(&self) -> Option<&Bytes> {
        self.data.as_ref()
    }

    /// Returns the name of the file that keeps it; none for a reference that nobody wrote.
    pub fn file_name(&self) -> Option<String> {
        let is_hash = self.hash.len() == 32 && self.hash.bytes().all(|b| b.is_ascii_hexdigit());
        is_hash.then(|| format!("{}.{}", self.hash, self.kind.extension()))
    }

    /// Returns it with these bytes, if they are its own.
    #[must_use]
    pub fn with_data(self, data: Bytes) -> Self {
        match Self::new(data) {
            Ok(found) if found == self => found,
            _ => self,
        }
    }

    /// Returns its bytes as requests hold them.
    pub(crate) fn base64(&self) -> Option<String> {
        self.data.as_ref().map(|data| STANDARD.encode(data))
    }
}

impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, self.bytes, &self.hash) == (other.kind, other.bytes, &other.hash)
    }
}

impl Eq for Image {}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({}, {} bytes, {})", self.kind.media_type(), self.bytes, self.hash)
    }
}

/// How many images a message or a request holds, and the bytes that they take there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Images {
    /// How many.
    pub count: usize,
    /// Their bytes as base64.
    pub bytes: usize,
}

impl Images {
    /// Returns what images take in a request.
    pub fn of(images: &[Image]) -> Self {
        let bytes = images.iter().map(|image| image.len().div_ceil(3) * 4).sum();
        Self { count: images.len(), bytes }
    }

    /// Returns the bytes of text that take as many tokens as they do, at 4 bytes a token.
    pub fn weight(self) -> usize {
        self.count * IMAGE_TOKENS * BYTES_PER_TOKEN
    }

    /// Returns the size of what holds them, in bytes, with each counted as the text that takes as
    /// much of a model's window. `bytes` is its size with the images as base64.
    pub fn weighed(self, bytes: usize) -> usize {
        bytes.saturating_sub(self.bytes) + self.weight()
    }
}

impl std::ops::AddAssign for Images {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.bytes += other.bytes;
    }
}

/// What a wire and a model take of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageRules {
    /// Whether the model reads any, as far as is known.
    pub taken: bool,
    /// The most bytes of one, as its file holds them.
    pub max_bytes: usize,
}

impl ImageRules {
    /// Says why the images of a prompt cannot be sent, if they cannot. Fails when the model reads
    /// none, one is larger than `max_bytes`, or there are more than 20 or, taken together, more
    /// than 14 MiB of them.
    pub fn check(&self, images: &[Image]) -> Result<(), ImageError> {
        if !self.taken && !images.is_empty() {
            return Err(ImageError::NotTaken);
        }
        if let Some(image) = images.iter().find(|image| image.len() > self.max_bytes) {
            let (bytes, limit_bytes) = (image.len() as u64, self.max_bytes);
            return Err(ImageError::TooLarge { bytes, limit_bytes });
        }
        if images.len() > MAX_IMAGES {
            return Err(ImageError::TooMany);
        }
        if images.iter().map(Image::len).sum::<usize>() > MAX_ALL_BYTES {
            return Err(ImageError::TooMuch);
        }
        Ok(())
    }
}

/// Why an image cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The model reads none.
    #[error(
        "the model reads no images; if it does, say `images = true` below [models.\"its name\"] in \
         your own vtcode.toml"
    )]
    NotTaken,
    /// It is no image, or of a kind that not all models read.
    #[error("it is {is}, and models read png, jpeg, gif and webp images")]
    Unknown {
        /// What it seems to be.
        is: &'static str,
    },
    /// One is too large.
    #[error("it has {} and an image may have {}: scale it down", mib(*.bytes), mib(*.limit_bytes as u64))]
    TooLarge {
        /// Its bytes.
        bytes: u64,
        /// The bound.
        limit_bytes: usize,
    },
    /// There are more than 20.
    #[error("a prompt may have {MAX_IMAGES} images")]
    TooMany,
    /// All of them together have more than 14 MiB.
    #[error("the images of a prompt may have {} together: scale them down", mib(MAX_ALL_BYTES as u64))]
    TooMuch,
}

fn mib(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{bytes} bytes"),
        _ => format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}

/// Says what bytes seem to be that are no image that can be sent.
fn looks(data: &[u8]) -> &'static str {
    let start = &data[..data.len().min(1024)];
    match start {
        [] => "empty",
        [b'B', b'M', ..] => "a bitmap",
        [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => "a TIFF image",
        [_, _, _, _, b'f', b't', b'y', b'p', b'h', ..] => "a HEIC image",
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', ..] => "an AVIF image",
        [b'%', b'P', b'D', b'F', ..] => "a PDF",
        _ if start.windows(4).any(|bytes| bytes.eq_ignore_ascii_case(b"<svg")) => "an SVG image",
        _ if !start.contains(&0) => "text",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The beginning of a file of each kind, and a few bytes more.
    fn file(kind: ImageKind) -> Vec<u8> {
        let start: &[u8] = match kind {
            ImageKind::Png => b"\x89PNG\r\n\x1a\n",
            ImageKind::Jpeg => b"\xff\xd8\xff\xe0",
            ImageKind::Gif => b"GIF89a",
            ImageKind::Webp => b"RIFF\x10\0\0\0WEBP",
        };
        [start, b"\0rest\xff"].concat()
    }

    #[test]
    fn the_first_bytes_decide() {
        for kind in ImageKind::ALL {
            let image = Image::new(file(kind)).unwrap();
            assert_eq!(image.kind(), kind);
            assert!(image.file_name().unwrap().ends_with(kind.extension()));
            assert_eq!(Some(image.base64().unwrap().len()), Some(Images::of(&[image]).bytes));
            // Half a beginning is none.
            assert_eq!(ImageKind::of(&file(kind)[..2]), None);
        }
        for (bytes, is) in [
            (&b""[..], "empty"),
            (b"just words", "text"),
            (b"BM\x01\0", "a bitmap"),
            (b"\0\0\0\x18ftypheic\0", "a HEIC image"),
            (b"\0\0\0\x18ftypavif\0", "an AVIF image"),
            (b"%PDF-1.7\0", "a PDF"),
            (b"<?xml version='1.0'?><SVG width=\"1\"/>", "an SVG image"),
            (b"\x7fELF\0", "something else"),
        ] {
            assert_eq!(Image::new(bytes).unwrap_err(), ImageError::Unknown { is });
        }
    }

    #[test]
    fn written_down_it_is_a_reference_and_only_its_own_bytes_fit_it() {
        let image = Image::new(file(ImageKind::Png)).unwrap();
        let json = serde_json::to_string(&image).unwrap();
        assert!(json.len() < 120 && !json.contains("rest"), "{json}");
        let reference: Image = serde_json::from_str(&json).unwrap();
        assert_eq!((&reference, reference.data()), (&image, None));
        let other = Bytes::from_static(b"\x89PNG\r\n\x1a\nother");
        assert_eq!(reference.clone().with_data(other).data(), None);
        let own = Bytes::from(file(ImageKind::Png));
        assert_eq!(reference.with_data(own).data(), image.data());
        assert!(!format!("{image:?}").contains("PNG"));
    }

    #[test]
    fn a_reference_names_no_file_elsewhere() {
        for hash in ["../../../etc/passwd", "", "0123456789abcdef0123456789abcde/"] {
            let json = format!(r#"{{"kind":"png","hash":"{hash}","bytes":1}}"#);
            let image: Image = serde_json::from_str(&json).unwrap();
            assert_eq!(image.file_name(), None, "{hash}");
        }
    }

    #[test]
    fn what_a_wire_does_not_take_is_told() {
        let image = |bytes: usize| {
            let mut data = file(ImageKind::Png);
            data.resize(bytes, 1);
            Image::new(data).unwrap()
        };
        let rules = ImageRules { taken: true, max_bytes: 100 };
        assert_eq!(rules.check(&vec![image(100); MAX_IMAGES]), Ok(()));
        assert_eq!(rules.check(&vec![image(100); MAX_IMAGES + 1]), Err(ImageError::TooMany));
        let told = rules.check(&[image(50), image(101)]).unwrap_err();
        assert_eq!(told, ImageError::TooLarge { bytes: 101, limit_bytes: 100 });
        let rules = ImageRules { taken: true, max_bytes: MAX_ALL_BYTES };
        let large = image(MAX_ALL_BYTES / 2);
        assert_eq!(rules.check(&[large.clone(), large.clone()]), Ok(()));
        assert_eq!(rules.check(&[large.clone(), large, image(50)]), Err(ImageError::TooMuch));
        let rules = ImageRules { taken: false, max_bytes: 100 };
        assert_eq!(rules.check(&[]), Ok(()));
        assert_eq!(rules.check(&[image(50)]), Err(ImageError::NotTaken));
    }

    #[test]
    fn an_image_weighs_what_a_model_reads_of_it_and_not_what_it_takes_on_the_wire() {
        let images = Images { count: 2, bytes: 8 << 20 };
        assert_eq!(images.weighed((8 << 20) + 1000), 1000 + 2 * 6400);
        assert_eq!(Images::default().weighed(1000), 1000);
    }
}
