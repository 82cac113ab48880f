//! Images and sound beside a row of `--dataset-name custom`: files become content parts of a chat.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{data::Row, error::Error};

/// What a row may have beside its text.
#[derive(Debug, Default, Deserialize)]
pub struct Media {
    /// Images: files, or addresses.
    #[serde(default)]
    image_files: Vec<String>,
    /// A file of sound.
    audio: Option<String>,
    /// Text and images in their order. Rows of text may have a key of this name that is something else.
    content: Option<Value>,
}

impl Media {
    /// Content parts for behind the prompt; none for a row of text alone.
    pub fn parts(&self, row: &Row, folder: &Path) -> Result<Vec<Value>, Error> {
        let images = self.image_files.iter().map(|file| image(row, folder, file));
        images.chain(self.audio.iter().map(|file| audio(row, folder, file))).collect()
    }

    /// The content of a user's message, where the row lists it.
    pub fn content(&self, row: &Row, folder: &Path) -> Result<Option<Vec<Value>>, Error> {
        let Some(Value::Array(content)) = &self.content else { return Ok(None) };
        content.iter().map(|part| prepared(row, folder, part)).collect::<Result<_, _>>().map(Some)
    }
}

/// The text of content parts, with line ends between its pieces as vLLM has it for templates that take text alone.
pub fn text(content: &[Value]) -> String {
    content.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
}

/// A part whose file, if it names one, is read.
fn prepared(row: &Row, folder: &Path, part: &Value) -> Result<Value, Error> {
    let kind = part["type"].as_str().unwrap_or_default();
    // `{"type":"image","image":"a.png"}`, and either form of `image_url`.
    let place = || part[kind].as_str().or_else(|| part["image_url"]["url"].as_str());
    match kind {
        "text" if part["text"].is_string() => Ok(part.clone()),
        "image" | "image_url" => {
            let file =
                place().ok_or_else(|| row.wrong(&format!("a part of type `{kind}` without its file or address")))?;
            image(row, folder, file)
        }
        "audio" => {
            let file = place().ok_or_else(|| row.wrong("a part of type `audio` without its file"))?;
            audio(row, folder, file)
        }
        "input_audio" => Ok(part.clone()),
        _ => Err(row.wrong(&format!(
            "a part of `content` of type `{kind}`: known are text, image, image_url, audio and input_audio"
        ))),
    }
}

fn image(row: &Row, folder: &Path, file: &str) -> Result<Value, Error> {
    let url = if ["http://", "https://", "data:"].iter().any(|scheme| file.starts_with(scheme)) {
        file.to_owned()
    } else {
        let bytes = read(row, folder, file)?;
        let kind = image_kind(&bytes)
            .ok_or_else(|| row.wrong(&format!("{file} is no image of a known kind: JPEG, PNG, GIF, WebP or BMP")))?;
        format!("data:image/{kind};base64,{}", STANDARD.encode(bytes))
    };
    Ok(json!({"type": "image_url", "image_url": {"url": url}}))
}

fn audio(row: &Row, folder: &Path, file: &str) -> Result<Value, Error> {
    let format = Path::new(file).extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    let format = format.ok_or_else(|| row.wrong(&format!("{file} has no ending, as .wav, that says what it is")))?;
    let data = STANDARD.encode(read(row, folder, file)?);
    Ok(json!({"type": "input_audio", "input_audio": {"data": data, "format": format}}))
}

/// A file whose place is counted from the folder of the dataset.
fn read(row: &Row, folder: &Path, file: &str) -> Result<Vec<u8>, Error> {
    let path = folder.join(file.strip_prefix("file://").unwrap_or(file));
    std::fs::read(&path).map_err(|e| row.wrong(&format!("cannot read {}: {e}", path.display())))
}

/// By the first bytes, since endings lie.
fn image_kind(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xFF, 0xD8, 0xFF, ..] => Some("jpeg"),
        [0x89, b'P', b'N', b'G', ..] => Some("png"),
        [b'G', b'I', b'F', b'8', ..] => Some("gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("webp"),
        [b'B', b'M', ..] => Some("bmp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_by_their_first_bytes() {
        assert_eq!(image_kind(b"\xFF\xD8\xFF\xE0..."), Some("jpeg"));
        assert_eq!(image_kind(b"\x89PNG\r\n"), Some("png"));
        assert_eq!(image_kind(b"RIFF\0\0\0\0WEBPVP8 "), Some("webp"));
        assert_eq!(image_kind(b"RIFF\0\0\0\0WAVEfmt "), None);
    }
}
