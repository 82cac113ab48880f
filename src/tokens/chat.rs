//! A model's chat template, which renders messages as text before they are tokenized.

use std::path::Path;

use minijinja::{
    Environment, ErrorKind, Output, State, Value as Jinja,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde, ValueKind},
};
use serde_json::{Map, Value, json};

use super::{
    python::{self, JsonDumps},
    strings,
};
use crate::{clock::unix_now, error::Error, json, record::Object};

/// The input of a template.
#[derive(Debug, Clone, Copy)]
pub struct ChatInput<'a> {
    /// Messages in OpenAI format.
    pub messages: &'a [Value],
    /// The other keys of the request's body: `tools`, `documents` and `chat_template_kwargs` are passed to the template.
    pub body: Option<&'a Object>,
}

impl<'a> From<&'a [Value]> for ChatInput<'a> {
    fn from(messages: &'a [Value]) -> Self {
        ChatInput { messages, body: None }
    }
}

impl<'a> ChatInput<'a> {
    /// The value of `key` in the body, unless it is null.
    #[must_use]
    pub fn body_value(&self, key: &str) -> Option<&'a Value> {
        self.body?.get(key).filter(|value| !value.is_null())
    }
}

/// The template in the folder of a `tokenizer.json`, ready to render.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The special tokens of the model by name, as `bos_token`.
    tokens: Map<String, Value>,
    /// Whether the template iterates over the content parts of a message; else their texts are joined for it.
    takes_parts: bool,
    /// The file it was read from, for messages.
    name: String,
}

const TEMPLATE: &str = "chat_template";
/// The name of a separate template for chats with tools.
const TOOL_USE: &str = "tool_use";

impl ChatTemplate {
    /// Reads `chat_template.jinja`, else `chat_template` in `tokenizer_config.json`, else `chat_template.json`; `None` if the
    /// model has no template.
    pub fn from_folder(folder: &Path) -> Result<Option<Self>, Error> {
        let path = |name: &str| folder.join(name);
        let config_path = path("tokenizer_config.json");
        let config = read_json(&config_path)?;
        let (templates, found) = if let Some(source) = read_if_exists(&path("chat_template.jinja"))? {
            (Value::String(source), path("chat_template.jinja"))
        } else if !config[TEMPLATE].is_null() {
            (config[TEMPLATE].clone(), config_path)
        } else {
            // Vision models store it next to the image processor's configuration.
            (read_json(&path("chat_template.json"))?[TEMPLATE].take(), path("chat_template.json"))
        };
        let Some(default) = template_named(&templates, "default") else { return Ok(None) };
        let tool_use = template_named(&templates, TOOL_USE).filter(|_| templates.is_array());
        Self::parse(default, tool_use, special_tokens(&config), found.display().to_string()).map(Some)
    }

    fn parse(default: &str, tool_use: Option<&str>, tokens: Map<String, Value>, name: String) -> Result<Self, Error> {
        let mut environment = python_environment().map_err(|e| template_error(&name, &e))?;
        for (key, source) in [(TEMPLATE, Some(default)), (TOOL_USE, tool_use)] {
            let Some(source) = source else { continue };
            environment.add_template_owned(key, adapt_source(source)).map_err(|e| template_error(&name, &e))?;
        }
        let mut template = ChatTemplate { environment, tokens, takes_parts: true, name };
        template.takes_parts = template.renders_parts();
        Ok(template)
    }

    /// Whether content parts are rendered as their text. vLLM inspects the template's source for the same purpose.
    fn renders_parts(&self) -> bool {
        let probe = [json!({"role": "user", "content": [{"type": "text", "text": "PROBE"}]})];
        self.render_input(ChatInput::from(&probe[..]))
            .is_ok_and(|text| text.contains("PROBE") && !text.contains("'type'"))
    }

    /// The text that the model reads, up to the start of its response.
    pub fn render_chat(&self, chat: ChatInput) -> Result<String, Error> {
        let rendered = if self.takes_parts || !chat.messages.iter().any(|message| message["content"].is_array()) {
            self.render_input(chat)
        } else {
            let messages: Vec<Value> = chat.messages.iter().map(join_text_parts).collect();
            self.render_input(ChatInput { messages: &messages, ..chat })
        };
        rendered.map_err(|e| template_error(&self.name, &e))
    }

    fn render_input(&self, chat: ChatInput) -> Result<String, minijinja::Error> {
        let mut variables = self.tokens.clone();
        variables.insert("messages".into(), chat.messages.into());
        variables.insert("add_generation_prompt".into(), true.into());
        for key in ["tools", "documents"] {
            // As in Python, both are always defined: `none` if not given.
            variables.insert(key.into(), chat.body_value(key).cloned().unwrap_or_default());
        }
        if let Some(Value::Object(more)) = chat.body_value("chat_template_kwargs") {
            variables.extend(more.clone());
        }
        let tool_use = chat.body_value("tools").and_then(|_| self.environment.get_template(TOOL_USE).ok());
        let template = tool_use.map_or_else(|| self.environment.get_template(TEMPLATE), Ok)?;
        template.render(Jinja::from(Serde(variables)))
    }
}

/// The most instructions that rendering a chat may take: about a second of work. A chat of 10,000 messages takes a fiftieth of
/// it. Tests run unoptimized, so they get less.
const RENDER_FUEL: u64 = if cfg!(test) { 500_000 } else { 20_000_000 };

/// An environment that renders like transformers: blocks leave no white space, and values are formatted as in Python.
fn python_environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(RENDER_FUEL));
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(|state: &mut State, value: &Jinja, name: &str, args: &[Jinja]| {
        if let Some(text) = value.as_str()
            && let Some(given) = strings::call_method(text, name, args)?
        {
            return Ok(given);
        }
        minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
    });
    environment
        .set_formatter(|out: &mut Output, _: &mut State, value: &Jinja| Ok(out.write_str(&format_value(value)?)?));
    environment.add_filter("string", |value: &Jinja| format_value(value));
    environment.add_filter("tojson", filter_tojson);
    environment.add_filter("indent", filter_indent);
    // As in Python: any value with a length and indices.
    environment.add_test("sequence", |value: &Jinja| {
        value.is_undefined() || matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
    });
    // minijinja iterates over `none`; Python does not.
    environment.add_function(ITERATE_FUNCTION, |value: Jinja| {
        if value.is_none() {
            return Err(minijinja::Error::new(ErrorKind::InvalidOperation, "'NoneType' object is not iterable"));
        }
        Ok(value)
    });
    environment.add_test("iterable", |value: &Jinja| !value.is_none() && value.try_iter().is_ok());
    environment.add_function("raise_exception", |what: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, what))
    });
    environment.add_function("strftime_now", |format: String| {
        python::format_date(&format, unix_now()).ok_or_else(|| {
            minijinja::Error::new(ErrorKind::InvalidOperation, format!("cannot format a date as `{format}`"))
        })
    });
    Ok(environment)
}

/// A value as Python's `str` formats it; empty if undefined.
fn format_value(value: &Jinja) -> Result<String, minijinja::Error> {
    Ok(match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::String => value.as_str().unwrap_or_default().to_owned(),
        _ => python::format_str(&as_json(value)?),
    })
}

/// `json.dumps` with the defaults of transformers: text is not escaped to ASCII.
#[allow(clippy::needless_pass_by_value)] // the signature of a filter
fn filter_tojson(value: &Jinja, options: Kwargs) -> Result<String, minijinja::Error> {
    let dumps = JsonDumps {
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        indent: options.get("indent")?,
        separators: options.get::<Option<Vec<String>>>("separators")?.and_then(|pair| {
            let [comma, colon] = <[String; 2]>::try_from(pair).ok()?;
            Some((comma, colon))
        }),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    Ok(dumps.format_json(&as_json(value)?))
}

/// Jinja's `indent` filter: `width` is a number of spaces or a text.
#[allow(clippy::needless_pass_by_value)] // the signature of a filter
fn filter_indent(
    text: String,
    width: Option<Jinja>,
    first: Option<bool>,
    blank: Option<bool>,
    options: Kwargs,
) -> Result<String, minijinja::Error> {
    let width = width.map_or_else(|| options.get::<Option<Jinja>>("width"), |width| Ok(Some(width)))?;
    let first = first.map_or_else(|| options.get::<Option<bool>>("first"), |first| Ok(Some(first)))?;
    let blank = blank.map_or_else(|| options.get::<Option<bool>>("blank"), |blank| Ok(Some(blank)))?;
    options.assert_all_used()?;
    let indentation = match width {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::from(u16::try_from(width)?)),
        },
    };
    Ok(strings::indent_lines(&text, &indentation, first.unwrap_or(false), blank.unwrap_or(false)))
}

fn as_json(value: &Jinja) -> Result<Value, minijinja::Error> {
    serde_json::to_value(value).map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))
}

/// The function that rejects iteration over `none`.
const ITERATE_FUNCTION: &str = "__iter__";

/// Rewrites `for x in y` as `for x in __iter__((y))`, up to a trailing filter; `None` if the tag cannot be parsed.
fn wrap_loop(tag: &str) -> Option<String> {
    let (front, rest) = tag.split_once(" in ")?;
    let rest = rest.trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '+'));
    let (mut depth, mut quote, mut end) = (0_i32, None, rest.len());
    for (at, c) in rest.char_indices() {
        let is_word = |word: &str| {
            let after = rest[at..].strip_prefix(word);
            rest[..at].ends_with(char::is_whitespace) && after.is_some_and(|b| !b.starts_with(char::is_alphanumeric))
        };
        match c {
            '\\' if quote.is_some() => return None,
            _ if quote.is_some() => quote = quote.filter(|open| *open != c),
            '"' | '\'' => quote = Some(c),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            'i' | 'r' if depth == 0 && (is_word("if") || is_word("recursive")) => {
                end = at;
                break;
            }
            _ => {}
        }
    }
    let (list, filter) = rest.split_at(end);
    (depth == 0 && quote.is_none()).then(|| {
        format!("{front} in {ITERATE_FUNCTION}(({})) {filter}{}", list.trim(), &tag[front.len() + 4 + rest.len()..])
    })
}

/// Rewrites tags that minijinja does not support.
///
/// `{% generation %} … {% endgeneration %}` marks the text that a model is trained to generate. It is rendered like any other
/// text, so it becomes `{% if true %} … {% endif %}`.
fn adapt_source(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        out.push_str(before);
        out.push_str("{%");
        let Some((inside, after)) = tag.split_once("%}") else {
            rest = tag;
            break;
        };
        let word = inside.trim_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '+'));
        match word {
            "generation" => out.push_str(&inside.replace(word, "if true")),
            "endgeneration" => out.push_str(&inside.replace(word, "endif")),
            _ if word.starts_with("for ") => out.push_str(&wrap_loop(inside).unwrap_or_else(|| inside.to_owned())),
            _ => out.push_str(inside),
        }
        out.push_str("%}");
        rest = after;
    }
    out.push_str(rest);
    out
}

/// All tokens of the config: `bos_token`, `image_token`, …, each a string or an object with `content`.
fn special_tokens(config: &Value) -> Map<String, Value> {
    let tokens = config.as_object().into_iter().flatten().filter(|(key, _)| key.ends_with("_token"));
    let texts = tokens.filter_map(|(key, value)| {
        let text = value.as_str().or_else(|| value["content"].as_str())?;
        Some((key.clone(), text.into()))
    });
    texts.collect()
}

/// The message with the texts of its content parts joined by line ends, as vLLM does for templates that do not support parts.
fn join_text_parts(message: &Value) -> Value {
    let mut message = message.clone();
    if let Value::Array(parts) = &message["content"] {
        let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
        message["content"] = texts.join("\n").into();
    }
    message
}

fn template_error(name: &str, e: &minijinja::Error) -> Error {
    let what = match e.kind() {
        ErrorKind::OutOfFuel => format!("it did not end after {RENDER_FUEL} steps"),
        _ => e.to_string(),
    };
    Error::Usage(format!(
        "cannot apply the chat template of {name}: {what}; use --tokenizer server to let the server count"
    ))
}

fn read_if_exists(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::read(path, e)),
    }
}

/// Parses a JSON file; null if the file does not exist.
fn read_json(path: &Path) -> Result<Value, Error> {
    let Some(text) = read_if_exists(path)? else { return Ok(Value::Null) };
    json::parse_lenient(text.as_bytes()).map_err(|e| Error::Usage(format!("{} is not JSON: {e}", path.display())))
}

/// The only template, or the one with this name in a list.
fn template_named<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    let listed = || value.as_array()?.iter().find(|t| t["name"] == name)?["template"].as_str();
    value.as_str().or_else(listed)
}

/// The text of a message, without content parts that are not text.
pub fn message_text(message: &Value) -> String {
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
        let tokens = special_tokens(&json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": null}));
        ChatTemplate::parse(source, None, tokens, "here".into())?.render_chat(messages.into())
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
    fn a_template_without_an_end_is_an_error() {
        let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
        let error = render(endless, &[]).unwrap_err().to_string();
        assert!(error.contains("did not end after 500000 steps") && error.contains("--tokenizer server"), "{error}");
        let long: Vec<Value> = vec![json!({"role": "user", "content": "hi"}); 10_000];
        let source = "{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}]{% endif %}{% endfor %}";
        assert_eq!(render(source, &long).unwrap().len(), 40_000);
    }

    #[test]
    fn the_default_of_several_templates_is_taken() {
        let many = json!([{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]);
        assert_eq!(template_named(&many, "default"), Some("b"));
        assert_eq!(template_named(&many, TOOL_USE), Some("a"));
        assert_eq!(template_named(&json!("a"), "default"), Some("a"));
        assert_eq!(template_named(&Value::Null, "default"), None);
    }

    #[test]
    fn values_are_written_as_python_writes_them() {
        let source = "{{ none }} {{ true }} {{ x }}|{{ messages[0].content | tojson(indent=1) }}|{{ [1, 'a'] }}|{{ 2.0 | string }}";
        let message = json!({"role": "user", "content": {"<é>": [1, null]}});
        assert_eq!(render(source, &[message]).unwrap(), "None True |{\n \"<é>\": [\n  1,\n  null\n ]\n}|[1, 'a']|2.0");
        let tests =
            "{{ none is iterable }} {{ 'a' is iterable }} {{ [] is iterable }} {{ 1 is iterable }} {{ x is iterable }}";
        assert_eq!(render(tests, &[]).unwrap(), "False True True False True");
        let refused = render("{{ strftime_now('%Q') }}", &[]).unwrap_err().to_string();
        assert!(refused.contains("%Q"), "{refused}");
        assert_eq!(render("{{ strftime_now('%Y')[:2] }}{{ pad_token }}", &[]).unwrap(), "20");
    }

    #[test]
    fn what_a_model_learns_to_say_is_written_like_any_other_text() {
        let source = "a \n{%- generation -%} \n b {% endgeneration %}\nc{% if true %} d{% endif %} {% open";
        assert_eq!(adapt_source(source), "a \n{%- if true -%} \n b {% endif %}\nc{% if true %} d{% endif %} {% open");
    }

    /// All of these are what jinja2 gives.
    #[test]
    fn texts_and_loops_are_pythons() {
        for (source, want) in [
            (r"{{ 'a\r\nb\n\nc\n' | indent(2) }}|", "a\n  b\n\n  c\n|"),
            (r"{{ 'a\nb' | indent(width='> ', first=true, blank=true) }}|", "> a\n> b|"),
            (r"{{ 'a\n\nb' | indent(1, true, true) }}{{ '' | indent }}|", " a\n \n b|"),
            (
                "{{ ['ab' is sequence, {} is sequence, none is sequence, 1 is sequence, [] is sequence, x is sequence] }}",
                "[True, True, False, False, True, True]",
            ),
            ("{{ 'a,b,c'.split(',', maxsplit=1) }}{{ 'a,b,c'.rsplit(',', 1) }}", "['a', 'b,c']['a,b', 'c']"),
            ("{{ ' a  b c '.split(maxsplit=1) }}{{ ' a  b c '.rsplit(none, 1) }}", "['a', 'b c '][' a  b', 'c']"),
            ("{{ ' a  b c '.split() }}{{ 'a,b'.split(sep=',') }}", "['a', 'b', 'c']['a', 'b']"),
            ("{{ ' a '.split(none, 0) }}{{ ''.split(',') }}{{ ''.split() }}", "['a '][''][]"),
            ("{{ ' a b '.rsplit(maxsplit=0) }}{{ ' a b '.rsplit(maxsplit=-1) }}", "[' a b']['a', 'b']"),
            ("{{ 'ab'.removeprefix('a') }}{{ 'ab'.removesuffix('b') }}{{ 'ab'.removeprefix('b') }}", "baab"),
            ("{{ 'a:b:c'.partition(':')[2] }}|{{ 'a:b:c'.rpartition(':')[0] }}", "b:c|a:b"),
            ("{{ 'abc'.partition(':')[0] }}|{{ 'abc'.rpartition(':')[2] }}", "abc|abc"),
            ("{% for x in y %}{% endfor %}", ""),
            ("{%- for x in [1, 2, 3] if x > 1 -%} {{ x }} {%- else %}{% endfor -%}", "23"),
            ("{% for k, v in {'if a': ' if '}.items() %}{{ k }}{{ v }}{{ loop.length }}{% endfor %}", "if a if 1"),
            ("{% for x in (['a'] if true else []) %}{{ x }}{% endfor %}{% for x in 1, 2 %}{{ x }}{% endfor %}", "a12"),
        ] {
            assert_eq!(render(source, &[]).unwrap(), want, "{source}");
        }
        let refused =
            render("{% for part in messages[0].content %}{% endfor %}", &[json!({"content": null})]).unwrap_err();
        assert!(refused.to_string().contains("'NoneType' object is not iterable"), "{refused}");
    }

    #[test]
    fn tools_reach_the_template_that_is_made_for_them() {
        let template = ChatTemplate::parse(
            "{{ tools is none }}{{ extra }}",
            Some("{{ tools[0].name }}{{ extra }}"),
            Map::new(),
            "here".into(),
        )
        .unwrap();
        let body = json!({"tools": [{"name": "f"}], "chat_template_kwargs": {"extra": 7}});
        let chat = |body| ChatInput { messages: &[], body };
        assert_eq!(template.render_chat(chat(body.as_object())).unwrap(), "f7");
        assert_eq!(template.render_chat(chat(None)).unwrap(), "True");
    }

    #[test]
    fn parts_become_one_text_where_the_template_knows_no_parts() {
        let parts =
            [json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]})];
        assert_eq!(render("{{ messages[0].content }}", &parts).unwrap(), "a\nb");
        let walks = "{% for p in messages[0].content %}[{{ p.text }}]{% endfor %}";
        assert_eq!(render(walks, &parts).unwrap(), "[a][b]");
    }

    #[test]
    fn the_text_of_a_message_with_parts_is_its_texts() {
        let parts = json!({"content": [{"type": "text", "text": "a"}, {"type": "image_url"}, {"text": "b"}]});
        assert_eq!(message_text(&parts), "ab");
        assert_eq!(message_text(&json!({"content": null})), "");
    }
}
