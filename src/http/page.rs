//! The text of an error page in HTML or XML, as proxies and gateways send it.

/// What a reader of the page learns from it: its title, its message, or its text without tags. `None`: it is not a page.
#[must_use]
pub fn page_text(text: &str) -> Option<String> {
    let start = text.trim_start_matches('\u{feff}').trim_start();
    let mut after = start.strip_prefix('<')?.chars();
    if !after.next()?.is_ascii_alphabetic() && !start.starts_with("<!") && !start.starts_with("<?") {
        return None;
    }
    let titles = ["title", "message", "h1"].iter().filter_map(|name| element_text(start, name));
    let words = titles.map(plain_text).find(|words| !words.is_empty());
    Some(words.unwrap_or_else(|| plain_text(start)))
}

/// What is between the tags of the first element of this name.
fn element_text<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let open = find_tag(text, name)?;
    let inner = &text[open + text[open..].find('>')? + 1..];
    Some(&inner[..find_tag(inner, &format!("/{name}")).unwrap_or(inner.len())])
}

/// Where the first tag of this name begins, in any case.
fn find_tag(text: &str, name: &str) -> Option<usize> {
    text.match_indices('<').map(|(at, _)| at).find(|at| {
        let tag = &text.as_bytes()[at + 1..];
        let ends = tag.get(name.len()).is_none_or(|byte| !byte.is_ascii_alphanumeric());
        tag.len() >= name.len() && tag[..name.len()].eq_ignore_ascii_case(name.as_bytes()) && ends
    })
}

/// The text without tags, comments, scripts and styles, in one line.
fn plain_text(mut text: &str) -> String {
    let mut plain = String::new();
    while let Some(open) = text.find('<') {
        plain.push_str(&text[..open]);
        plain.push(' ');
        text = &text[open..];
        let hidden = ["script", "style"].into_iter().find(|name| find_tag(text, name) == Some(0));
        let end = match hidden {
            _ if text.starts_with("<!--") => text.find("-->").map(|at| at + 3),
            Some(name) => find_tag(text, &format!("/{name}")).and_then(|at| Some(at + text[at..].find('>')? + 1)),
            None => text.find('>').map(|at| at + 1),
        };
        text = end.map_or("", |end| &text[end..]);
    }
    plain.push_str(text);
    let entities = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&nbsp;", " "), ("&amp;", "&")];
    let decoded = entities.iter().fold(plain, |text, (entity, character)| text.replace(entity, character));
    decoded.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_page_has_one_line_of_text() {
        for (page, want) in [
            (
                "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx/1.24.0</center>\r\n</body>\r\n</html>\r\n",
                "502 Bad Gateway",
            ),
            ("\u{feff}<!DOCTYPE html><HTML><HEAD><TITLE lang=en>a &amp; b</TITLE>", "a & b"),
            ("<html><title></title><h1>Not <b>found</b></h1>", "Not found"),
            (
                "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
                "Access Denied",
            ),
            ("<?xml version=\"1.0\"?><e><c>1</c><!-- <x> --><d>two</d></e>", "1 two"),
            ("<!-- a --><p>b<style>p {}</style><script>if (a < b) {}</script>c", "b c"),
            ("<titles>a</titles>", "a"),
            ("<p>cut <b", "cut"),
        ] {
            assert_eq!(page_text(page).as_deref(), Some(want), "{page}");
        }
        for text in ["", "busy", "< 5 tokens", "<", "a <b>"] {
            assert_eq!(page_text(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_safe(text in "(<|>|/|é|title|script|!--|-->| ){0,20}") {
            let _ = page_text(&format!("<a{text}"));
        }
    }
}
