//! A model's chat template: the text that a list of messages becomes before it is tokenized.

use std::path::Path;

use minijinja::{Environment, ErrorKind, context, syntax::SyntaxConfig, value::Serde};
use serde_json::Value;

use crate::error::Error;

/// The template that ships beside a `tokenizer.json`, ready to render.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    /// Where it was found, for messages.
    name: String,
}

const TEMPLATE: &str = "chat_template";

impl ChatTemplate {
    /// From `chat_template.jinja`, else `chat_template` in `tokenizer_config.json`; `None` if the model has none.
    pub fn from_folder(folder: &Path) -> Result<Option<Self>, Error> {
        let config_path = folder.join("tokenizer_config.json");
        let config: Value = match read_if_there(&config_path)? {
            Some(text) => serde_json::from_str(&text)
                .map_err(|e| Error::Usage(format!("{} is not JSON: {e}", config_path.display())))?,
            None => Value::Null,
        };
        let jinja = folder.join("chat_template.jinja");
        let (source, path) = match read_if_there(&jinja)? {
            Some(source) => (source, jinja),
            None => match default_template(&config["chat_template"]) {
                Some(source) => (source.to_owned(), config_path),
                None => return Ok(None),
            },
        };
        let token = |key: &str| text_or(&config[key], "content").to_owned();
        Self::parse(source, token("bos_token"), token("eos_token"), path.display().to_string()).map(Some)
    }

    fn parse(source: String, bos: String, eos: String, name: String) -> Result<Self, Error> {
        let mut environment = Environment::new();
        // The dialect that transformers gives to templates: Jinja blocks leave no white space, and values are Python's.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| unusable(&name, &e))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |what: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, what))
        });
        environment.add_template_owned(TEMPLATE, source).map_err(|e| unusable(&name, &e))?;
        Ok(ChatTemplate { environment, bos, eos, name })
    }

    /// The text that the model gets, up to where its answer begins.
    pub fn render(&self, messages: &[Value]) -> Result<String, Error> {
        self.environment
            .get_template(TEMPLATE)
            .and_then(|template| {
                template.render(context! {
                    messages => minijinja::Value::from(Serde(messages)),
                    add_generation_prompt => true,
                    bos_token => self.bos.as_str(),
                    eos_token => self.eos.as_str(),
                })
            })
            .map_err(|e| unusable(&self.name, &e))
    }
}

fn unusable(name: &str, e: &minijinja::Error) -> Error {
    Error::Usage(format!(
        "cannot apply the chat template of {name}: {e}; --tokenizer server lets the server count instead"
    ))
}

fn read_if_there(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::read(path, e)),
    }
}

/// A string itself, or the string under `key` of an object; empty for anything else.
fn text_or<'a>(value: &'a Value, key: &str) -> &'a str {
    value.as_str().or_else(|| value[key].as_str()).unwrap_or_default()
}

/// One template, or the one called `default` in a list of named ones.
fn default_template(value: &Value) -> Option<&str> {
    let default = || value.as_array()?.iter().find(|t| t["name"] == "default")?["template"].as_str();
    value.as_str().or_else(default)
}

/// The text of a message, content parts that are not text left out.
pub fn text(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(source: &str, messages: &[Value]) -> Result<String, Error> {
        ChatTemplate::parse(source.into(), "<s>".into(), "</s>".into(), "here".into())?.render(messages)
    }

    #[test]
    fn a_template_is_rendered_as_transformers_does() {
        let source = "{{ bos_token }}{% for m in messages %}\n  {% if m['role'] == 'user' %}\n[{{ m.content.strip() }}]\
                      {% endif %}\n{% endfor %}{% if add_generation_prompt %}>{% endif %}";
        let got = render(source, &[json!({"role": "user", "content": " hi "})]).unwrap();
        assert_eq!(got, "<s>[hi]>");
    }

    #[test]
    fn a_template_that_refuses_says_why_and_what_else_there_is() {
        let error = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err().to_string();
        assert!(error.contains("roles must alternate") && error.contains("--tokenizer server"), "{error}");
    }

    #[test]
    fn the_default_of_several_templates_is_taken() {
        let many = json!([{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]);
        assert_eq!(default_template(&many), Some("b"));
        assert_eq!(default_template(&json!("a")), Some("a"));
        assert_eq!(default_template(&Value::Null), None);
    }

    #[test]
    fn the_text_of_a_message_with_parts_is_its_texts() {
        let parts = json!({"content": [{"type": "text", "text": "a"}, {"type": "image_url"}, {"text": "b"}]});
        assert_eq!(text(&parts), "ab");
        assert_eq!(text(&json!({"content": null})), "");
    }
}
