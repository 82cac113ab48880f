//! The Hugging Face hub: a model's tokenizer by its id, from the local caches if they have it.

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use reqwest::{StatusCode, blocking::Client};

use crate::{
    error::Error,
    http::client::{failure_reason, hub_client},
};

/// The hub as the environment describes it, with the variables of `huggingface_hub`.
#[derive(Clone)]
pub struct Hub {
    /// The caches of other programs, laid out as `huggingface_hub` does.
    shared_cache: Option<PathBuf>,
    /// Our own, for what we fetch.
    own_cache: Option<PathBuf>,
    endpoint: String,
    token: Option<String>,
    offline: bool,
}

/// What is fetched; all but the first may be missing.
const FILES: [&str; 4] = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json"];

/// Whether `name` has the form `name` or `organisation/name`.
pub fn is_id(name: &str) -> bool {
    let part = |p: &str| {
        p.starts_with(|c: char| c.is_ascii_alphanumeric())
            && p.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    Path::new(name).extension().is_none_or(|e| e != "json") && name.split('/').count() <= 2 && name.split('/').all(part)
}

impl Hub {
    /// `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`, and the usual folders without them.
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
    pub fn folder(&self, id: &str) -> Result<PathBuf, Error> {
        let own = self.own_cache.as_ref().map(|cache| cache.join(id.replace('/', "--")));
        for cached in [self.snapshot(id), own.clone()].into_iter().flatten() {
            if cached.join(FILES[0]).is_file() {
                return Ok(cached);
            }
        }
        if self.offline {
            return Err(Error::Setup(format!(
                "the tokenizer of {id} is in no local cache and HF_HUB_OFFLINE forbids to fetch it; \
                 give --tokenizer a folder, or unset the variable once"
            )));
        }
        let own = own.ok_or_else(|| Error::Setup("nowhere to keep a tokenizer: set HOME or XDG_CACHE_HOME".into()))?;
        self.fetch(id, &own)?;
        Ok(own)
    }

    /// Where `huggingface_hub` keeps the revision that `main` last was.
    fn snapshot(&self, id: &str) -> Option<PathBuf> {
        let model = self.shared_cache.as_ref()?.join(format!("models--{}", id.replace('/', "--")));
        let revision = fs::read_to_string(model.join("refs/main")).ok()?;
        Some(model.join("snapshots").join(revision.trim()))
    }

    fn fetch(&self, id: &str, folder: &Path) -> Result<(), Error> {
        let client = hub_client()?;
        let mut files = Vec::new();
        for name in FILES {
            match self.fetch_file(&client, id, name)? {
                Some(content) => files.push((name, content)),
                None if name == FILES[0] => {
                    return Err(Error::Usage(format!(
                        "{}/{id} has no tokenizer.json, or there is no such model; \
                         give --tokenizer another id, a folder, or `server` to let the server count",
                        self.endpoint
                    )));
                }
                None => {}
            }
        }
        fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        // The file whose presence makes the folder count comes last.
        for (name, content) in files.iter().rev() {
            replace(&folder.join(name), content).map_err(|e| Error::write(folder.join(name), e))?;
        }
        Ok(())
    }

    /// One file of the model; `None` if it has none of this name.
    fn fetch_file(&self, client: &Client, id: &str, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let endpoint = self.endpoint.trim_end_matches('/');
        let mut request = client.get(format!("{endpoint}/{id}/resolve/main/{name}"));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let failed = |what: String| Error::Setup(format!("cannot fetch {name} of {id} from {endpoint}: {what}"));
        let unreachable = |e: reqwest::Error| {
            failed(format!("{}; give --tokenizer a folder, or set HF_ENDPOINT", failure_reason(&e)))
        };
        let answer = request.send().map_err(unreachable)?;
        match answer.status() {
            status if status.is_success() => Ok(Some(answer.bytes().map_err(unreachable)?.to_vec())),
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(failed(format!(
                "HTTP {}: the model is not open to you, or its name is wrong; set HF_TOKEN to a token that may read it",
                answer.status().as_u16()
            ))),
            status => Err(failed(format!("HTTP {status}; try again, or give --tokenizer a folder"))),
        }
    }
}

/// Writes beside and renames, so that a cut download is never taken for a file.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let part = path.with_extension(format!("part{}", std::process::id()));
    fs::File::create(&part)?.write_all(content)?;
    fs::rename(&part, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        for id in ["gpt2", "Qwen/Qwen2.5-7B-Instruct", "a_b/c.d"] {
            assert!(is_id(id), "{id}");
        }
        for path in ["./model", "/model", "a/b/c", "tokenizer.json", "models/tokenizer.json", "a b", "", "a/"] {
            assert!(!is_id(path), "{path}");
        }
    }
}
