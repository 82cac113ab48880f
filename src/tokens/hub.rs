//! The Hugging Face hub: finds a model's tokenizer by id, in the local caches first.

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use reqwest::{StatusCode, blocking::Client};

use crate::{
    error::Error,
    http::client::{failure_reason, hub_client, read_blocking_body},
};

/// The hub, configured by the environment variables of `huggingface_hub`.
#[derive(Clone)]
pub struct Hub {
    /// The cache of other programs, in the layout of `huggingface_hub`.
    shared_cache: Option<PathBuf>,
    /// The cache for files that we download.
    own_cache: Option<PathBuf>,
    endpoint: String,
    token: Option<String>,
    offline: bool,
}

/// The files that are downloaded; only the first is required.
const TOKENIZER_FILES: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json"];

/// The longest file that is downloaded: the largest `tokenizer.json` on the hub has 35 MB.
const MAX_FILE_BYTES: usize = 256 << 20;

/// Whether `name` has the form `name` or `organisation/name`.
pub fn is_id(name: &str) -> bool {
    let part = |p: &str| {
        p.starts_with(|c: char| c.is_ascii_alphanumeric())
            && p.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    Path::new(name).extension().is_none_or(|e| e != "json") && name.split('/').count() <= 2 && name.split('/').all(part)
}

impl Hub {
    /// Reads `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE`; unset variables have the usual defaults.
    pub fn from_env() -> Self {
        let var = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let cache =
            var("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| var("HOME").map(|h| Path::new(&h).join(".cache")));
        let shared = var("HF_HOME").map(PathBuf::from).or_else(|| cache.as_ref().map(|c| c.join("huggingface")));
        Hub {
            shared_cache: var("HF_HUB_CACHE").map(PathBuf::from).or_else(|| shared.map(|home| home.join("hub"))),
            own_cache: cache.map(|c| c.join("vb")),
            endpoint: var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            token: var("HF_TOKEN"),
            offline: var("HF_HUB_OFFLINE")
                .is_some_and(|v| !matches!(v.to_ascii_lowercase().as_str(), "0" | "no" | "false")),
        }
    }

    /// The folder that holds the `tokenizer.json` of this model.
    pub fn tokenizer_folder(&self, id: &str) -> Result<PathBuf, Error> {
        let own = self.own_cache.as_ref().map(|cache| cache.join(id.replace('/', "--")));
        for cached in [self.snapshot_folder(id), own.clone()].into_iter().flatten() {
            if cached.join(TOKENIZER_FILES[0]).is_file() {
                return Ok(cached);
            }
        }
        if self.offline {
            return Err(Error::Setup(format!(
                "the tokenizer of {id} is not in a local cache, and HF_HUB_OFFLINE forbids the download; \
                 set --tokenizer to a folder, or unset the variable once"
            )));
        }
        let own =
            own.ok_or_else(|| Error::Setup("no folder to store a tokenizer in: set HOME or XDG_CACHE_HOME".into()))?;
        self.download_tokenizer(id, &own)?;
        Ok(own)
    }

    /// The folder in which `huggingface_hub` stores the latest known revision of `main`.
    fn snapshot_folder(&self, id: &str) -> Option<PathBuf> {
        let model = self.shared_cache.as_ref()?.join(format!("models--{}", id.replace('/', "--")));
        let revision = fs::read_to_string(model.join("refs/main")).ok()?;
        Some(model.join("snapshots").join(revision.trim()))
    }

    fn download_tokenizer(&self, id: &str, folder: &Path) -> Result<(), Error> {
        let client = hub_client()?;
        let mut files = Vec::new();
        for name in TOKENIZER_FILES {
            match self.download_file(&client, id, name)? {
                Some(content) => files.push((name, content)),
                None if name == TOKENIZER_FILES[0] => {
                    return Err(Error::Usage(format!(
                        "{}/{id} does not exist or has no tokenizer.json; \
                         set --tokenizer to another id, a folder, or `server` to let the server count",
                        self.endpoint
                    )));
                }
                None => {}
            }
        }
        fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        // The required file is written last: its presence marks the folder as complete.
        for (name, content) in files.iter().rev() {
            replace_file(&folder.join(name), content).map_err(|e| Error::write(folder.join(name), e))?;
        }
        Ok(())
    }

    /// Downloads one file of the model; `None` if the file does not exist.
    fn download_file(&self, client: &Client, id: &str, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let endpoint = self.endpoint.trim_end_matches('/');
        let mut request = client.get(format!("{endpoint}/{id}/resolve/main/{name}"));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let failed = |what: String| Error::Setup(format!("cannot download {name} of {id} from {endpoint}: {what}"));
        let unreachable = |e: reqwest::Error| {
            failed(format!("{}; set --tokenizer to a folder, or set HF_ENDPOINT", failure_reason(&e)))
        };
        let response = request.send().map_err(unreachable)?;
        match response.status() {
            status if status.is_success() => {
                let content = read_blocking_body(response, MAX_FILE_BYTES);
                content.map(Some).map_err(|e| failed(format!("{e}; set --tokenizer to a folder")))
            }
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(failed(format!(
                "HTTP {}: the model is not accessible, or its name is wrong; set HF_TOKEN to a token that may read it",
                response.status().as_u16()
            ))),
            status => Err(failed(format!("HTTP {status}; try again, or set --tokenizer to a folder"))),
        }
    }
}

/// Writes a temporary file and renames it, so that an interrupted download never looks complete.
fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let part = path.with_extension(format!("part{}", std::process::id()));
    fs::File::create(&part)?.write_all(content)?;
    fs::rename(&part, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_distinguished_from_paths() {
        for id in ["gpt2", "Qwen/Qwen2.5-7B-Instruct", "a_b/c.d"] {
            assert!(is_id(id), "{id}");
        }
        for path in ["./model", "/model", "a/b/c", "tokenizer.json", "models/tokenizer.json", "a b", "", "a/"] {
            assert!(!is_id(path), "{path}");
        }
    }
}
