//! Images and audio in a row: files, or the content of a column, become content parts of a chat message.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    data::Row,
    error::{Error, truncate_quote},
    generate::common::Common,
    record::SampleRequest,
};

/// Keys of a row for images and audio.
#[derive(Debug, Default, Deserialize)]
pub struct RowMedia {
    /// Images: files or URLs.
    image_files: Option<Vec<String>>,
    /// An audio file.
    audio: Option<Value>,
    /// Text and images in order. Rows of plain text may use this key for something else.
    content: Option<Value>,
}

impl RowMedia {
    /// Reads the content parts that follow the prompt; none for a row of plain text.
    pub fn read_parts(&self, row: &Row, folder: &Path) -> Result<Vec<Value>, Error> {
        let images = self.image_files.iter().flatten().map(|file| load_image(row, folder, file));
        let audio = self.audio.iter().map(|file| match file {
            Value::String(file) => load_audio(row, folder, file),
            _ => {
                Err(row
                    .wrong("`audio` is not a file or URL: --dataset-name hf --hf-column audio=audio reads other forms"))
            }
        });
        images.chain(audio).collect()
    }

    /// Reads the content of the user message, if the row lists content parts.
    pub fn read_content(&self, row: &Row, folder: &Path) -> Result<Option<Vec<Value>>, Error> {
        let Some(Value::Array(content)) = &self.content else { return Ok(None) };
        content.iter().map(|part| prepare_part(row, folder, part)).collect::<Result<_, _>>().map(Some)
    }
}

/// Joins the texts of content parts with line breaks, as vLLM does for templates that only take text.
pub fn join_texts(content: &[Value]) -> String {
    content.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
}

/// Type of the first content part that is not text, if there is one.
pub fn first_non_text_part(messages: &[Value]) -> Option<String> {
    let parts = messages.iter().filter_map(|message| message["content"].as_array()).flatten();
    let mut others = parts.filter(|part| !part.is_string() && !part["text"].is_string());
    others.next().map(|part| part["type"].as_str().unwrap_or("unknown").to_owned())
}

/// Joins the texts of a message in parts. In datasets, a part for an image is only a placeholder: the image itself is
/// in another column.
pub fn text_of_parts(content: &[Value]) -> Result<String, String> {
    let holds = |part: &&Value| {
        let keys = ["image", "image_url", "audio", "audio_url", "input_audio", "video", "video_url"];
        !part["text"].is_string() && keys.iter().any(|key| !part[key].is_null())
    };
    match content.iter().find(holds) {
        Some(part) => Err(format!(
            "a part of type `{}` contains its data: use --dataset-name custom, which sends such messages",
            part["type"].as_str().unwrap_or("unknown")
        )),
        None => Ok(join_texts(content)),
    }
}

/// Appends the row's images and audio to the request's, if the API takes them.
pub fn attach_parts(row: &Row, request: &mut SampleRequest, parts: Vec<Value>, common: &Common) -> Result<(), Error> {
    if parts.is_empty() {
        return Ok(());
    }
    if !common.takes_media {
        return Err(row.wrong("images and audio need an API that takes them, such as --backend openai-chat"));
    }
    let mut all = match request.multi_modal_data.take() {
        None => Vec::new(),
        Some(Value::Array(list)) => list,
        Some(part) => vec![part],
    };
    all.extend(parts);
    request.multi_modal_data = Some(all.into());
    Ok(())
}

/// Reads the images of a cell: a file, a URL, `{"bytes":…}` or `{"path":…}` as Hugging Face stores them, or a list of
/// these.
pub fn read_images(row: &Row, folder: &Path, cell: &Value) -> Result<Vec<Value>, Error> {
    map_cells(cell, &mut |cell| match parse_cell(row, folder, cell)? {
        MediaCell::Place(place) => load_image(row, folder, place),
        MediaCell::Bytes(bytes, name) => Ok(image_part(&image_url(row, &bytes, name)?)),
    })
}

/// Reads the audio of a cell, in the same formats.
pub fn read_sounds(row: &Row, folder: &Path, cell: &Value) -> Result<Vec<Value>, Error> {
    map_cells(cell, &mut |cell| match parse_cell(row, folder, cell)? {
        MediaCell::Place(place) => load_audio(row, folder, place),
        MediaCell::Bytes(bytes, name) => audio_part(row, &bytes, name),
    })
}

fn map_cells(cell: &Value, make: &mut impl FnMut(&Value) -> Result<Value, Error>) -> Result<Vec<Value>, Error> {
    match cell {
        Value::Null => Ok(vec![]),
        Value::Array(list) => list.iter().filter(|cell| !cell.is_null()).map(make).collect(),
        cell => Ok(vec![make(cell)?]),
    }
}

/// Content of a cell.
enum MediaCell<'a> {
    /// A file or a URL.
    Place(&'a str),
    /// The bytes and their name.
    Bytes(Vec<u8>, &'a str),
}

fn parse_cell<'a>(row: &Row, folder: &Path, cell: &'a Value) -> Result<MediaCell<'a>, Error> {
    let decoded = |text: &str| STANDARD.decode(text).ok();
    let path = cell["path"].as_str();
    match (cell, cell["bytes"].as_str(), path) {
        // Base64 may be in place of a file name.
        (Value::String(text), ..) => match decoded(text).filter(|_| text.len() > 64 && !folder.join(text).exists()) {
            Some(bytes) => Ok(MediaCell::Bytes(bytes, "the value in the column")),
            None => Ok(MediaCell::Place(text)),
        },
        (_, Some(bytes), _) => {
            let bytes = decoded(bytes).ok_or_else(|| row.wrong("the `bytes` are not base64"))?;
            Ok(MediaCell::Bytes(bytes, path.unwrap_or("the value in the column")))
        }
        (_, None, Some(path)) => Ok(MediaCell::Place(path)),
        _ => Err(row.wrong("not a file, a URL, or an object with `bytes` or `path`")),
    }
}

/// Reads the file of a content part, if it names one.
fn prepare_part(row: &Row, folder: &Path, part: &Value) -> Result<Value, Error> {
    let kind = part["type"].as_str().unwrap_or_default();
    // `{"type":"image","image":"a.png"}`, or either form of `image_url`.
    let place = || part[kind].as_str().or_else(|| part["image_url"]["url"].as_str());
    match kind {
        "text" if part["text"].is_string() => Ok(part.clone()),
        "image" | "image_url" => {
            let file = place().ok_or_else(|| row.wrong(&format!("a part of type `{kind}` has no file or URL")))?;
            load_image(row, folder, file)
        }
        "audio" => {
            let file = place().ok_or_else(|| row.wrong("a part of type `audio` has no file"))?;
            load_audio(row, folder, file)
        }
        "input_audio" => Ok(part.clone()),
        _ => Err(row.wrong(&format!(
            "unknown type `{kind}` of a part in `content`: use text, image, image_url, audio or input_audio"
        ))),
    }
}

fn load_image(row: &Row, folder: &Path, file: &str) -> Result<Value, Error> {
    let url = if ["http://", "https://", "data:"].iter().any(|scheme| file.starts_with(scheme)) {
        file.to_owned()
    } else {
        image_url(row, &read_media_file(row, folder, file)?, file)?
    };
    Ok(image_part(&url))
}

/// Encodes an image as a data URL.
fn image_url(row: &Row, bytes: &[u8], name: &str) -> Result<String, Error> {
    let kind = image_kind(bytes)
        .ok_or_else(|| row.wrong(&format!("{} is not a JPEG, PNG, GIF, WebP or BMP image", truncate_quote(name))))?;
    Ok(format!("data:image/{kind};base64,{}", STANDARD.encode(bytes)))
}

fn image_part(url: &str) -> Value {
    json!({"type": "image_url", "image_url": {"url": url}})
}

fn load_audio(row: &Row, folder: &Path, file: &str) -> Result<Value, Error> {
    if let Some(bytes) = file.strip_prefix("data:") {
        let bytes = bytes.split_once(";base64,").and_then(|(_, data)| STANDARD.decode(data).ok());
        let bytes = bytes.ok_or_else(|| row.wrong(&format!("{} is not base64-encoded audio", truncate_quote(file))))?;
        return audio_part(row, &bytes, file);
    }
    if ["http://", "https://"].iter().any(|scheme| file.starts_with(scheme)) {
        return Err(row.wrong(&format!(
            "{} is a URL, which the APIs only take for images: download the audio and give its file",
            truncate_quote(file)
        )));
    }
    audio_part(row, &read_media_file(row, folder, file)?, file)
}

/// Makes an audio part. The format comes from the first bytes, or else from the file extension.
fn audio_part(row: &Row, bytes: &[u8], name: &str) -> Result<Value, Error> {
    let format = audio_kind(bytes).map(str::to_owned).or_else(|| file_extension(name)).ok_or_else(|| {
        row.wrong(&format!(
            "{} is not WAV, FLAC, Ogg or MP3 audio, and has no file extension that names its format",
            truncate_quote(name)
        ))
    })?;
    Ok(json!({"type": "input_audio", "input_audio": {"data": STANDARD.encode(bytes), "format": format}}))
}

/// `wav` from `a.wav` or `data:audio/wav;base64,…`.
fn file_extension(name: &str) -> Option<String> {
    if let Some(kind) = name.strip_prefix("data:") {
        let kind = kind.split([';', ',']).next().and_then(|kind| kind.strip_prefix("audio/"));
        return kind.map(|kind| kind.trim_start_matches("x-").to_owned());
    }
    Path::new(name).extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase)
}

/// Reads a file relative to the folder of the dataset.
fn read_media_file(row: &Row, folder: &Path, file: &str) -> Result<Vec<u8>, Error> {
    let path = folder.join(file.strip_prefix("file://").unwrap_or(file));
    std::fs::read(&path)
        .map_err(|e| row.wrong(&format!("cannot read {}: {e}", truncate_quote(&path.display().to_string()))))
}

/// Detects the format from the first bytes, because file extensions can be wrong.
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

/// Detects the format from the first bytes.
fn audio_kind(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Some("wav"),
        [b'f', b'L', b'a', b'C', ..] => Some("flac"),
        [b'O', b'g', b'g', b'S', ..] => Some("ogg"),
        [b'I', b'D', b'3', ..] => Some("mp3"),
        // A frame of layer III. AAC frames begin with the same bits but have no layer.
        [0xFF, second, ..] if second & 0xE6 == 0xE2 => Some("mp3"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_detected_by_their_first_bytes() {
        assert_eq!(image_kind(b"\xFF\xD8\xFF\xE0..."), Some("jpeg"));
        assert_eq!(image_kind(b"\x89PNG\r\n"), Some("png"));
        assert_eq!(image_kind(b"RIFF\0\0\0\0WEBPVP8 "), Some("webp"));
        assert_eq!(image_kind(b"RIFF\0\0\0\0WAVEfmt "), None);
    }

    #[test]
    fn audio_is_detected_by_its_first_bytes() {
        assert_eq!(audio_kind(b"RIFF\0\0\0\0WAVEfmt "), Some("wav"));
        assert_eq!([audio_kind(b"\xFF\xFB\x90"), audio_kind(b"\xFF\xF1\x50")], [Some("mp3"), None]);
        let named = ["a.B/c.AAC", "data:audio/x-m4a;base64,AA==", "b"].map(file_extension);
        assert_eq!(named, [Some("aac".to_owned()), Some("m4a".to_owned()), None]);
    }
}
