//! The table of `vb-fire --list-backends`.

use super::{BACKENDS, Backend};

/// All backends with what they need, as aligned text.
#[must_use]
pub fn list_backends() -> String {
    let header = ["BACKEND", "API", "NEEDS", "CHECKED AGAINST"].map(str::to_owned);
    let rows: Vec<[String; 4]> =
        std::iter::once(header).chain(BACKENDS.iter().map(|backend| table_row(backend))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let [name, api, needs] = [0, 1, 2].map(width);
    let lines: Vec<String> =
        rows.iter().map(|[a, b, c, d]| format!("{a:name$}  {b:api$}  {c:needs$}  {d}\n")).collect();
    lines.concat()
}

fn table_row(backend: &Backend) -> [String; 4] {
    let name = match backend.aliases {
        [] => backend.name.to_owned(),
        aliases => format!("{} ({})", backend.name, aliases.join(", ")),
    };
    // Code spans are for the docs.
    let plain = |markdown: &str| markdown.replace('`', "");
    [name, backend.about.to_owned(), plain(backend.needs), backend.checked_against.to_owned()]
}
