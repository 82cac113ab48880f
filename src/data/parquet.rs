//! Parquet files, with the cargo feature `parquet`.

#[cfg(feature = "parquet")]
pub use with::open_parquet;
#[cfg(not(feature = "parquet"))]
pub use without::open_parquet;

#[cfg(not(feature = "parquet"))]
mod without {
    use std::path::{Path, PathBuf};

    use crate::{
        data::{Rows, rows::PickColumns},
        error::Error,
    };

    /// Fails, naming the missing feature.
    pub fn open_parquet(_: &[PathBuf], name: &Path, _: PickColumns) -> Result<Rows, Error> {
        Err(Error::Usage(format!(
            "{} is parquet, which this vb-gen was built without: build it with `cargo build --release --features parquet`, \
             or save the dataset as JSON lines",
            name.display()
        )))
    }
}

#[cfg(feature = "parquet")]
mod with {
    use std::{
        fs::File,
        path::{Path, PathBuf},
        sync::Arc,
    };

    use base64::{Engine, engine::general_purpose::STANDARD};
    use parquet::{
        basic::Compression,
        errors::ParquetError,
        file::{
            metadata::{ColumnChunkMetaData, RowGroupMetaData},
            reader::{FileReader, SerializedFileReader},
        },
        record::{Field, List, Row},
        schema::types::Type,
    };
    use serde_json::{Map, Value};

    use crate::{
        data::{Rows, rows::PickColumns, spool::RowSpool},
        error::{Error, catch_panic},
    };

    /// The rows of these files, one file after the other, unpacked into a temporary file. Messages call all of them `name`.
    pub fn open_parquet(paths: &[PathBuf], name: &Path, pick: PickColumns) -> Result<Rows, Error> {
        let mut spool = RowSpool::new()?;
        let (mut columns, mut number) = (None, 0);
        for path in paths {
            catch_damage(path, || unpack_file(path, &mut columns, pick, &mut number, &mut spool))?;
        }
        spool.into_rows(name.display().to_string(), ": row ")
    }

    /// Runs `work` on a file. The parquet crate may panic on a damaged one, with a message that does not name the file.
    fn catch_damage<T>(path: &Path, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let damaged = || Err(Error::Input(format!("{}: the file is damaged: get it again", path.display())));
        catch_panic(work).unwrap_or_else(damaged)
    }

    /// Adds the rows of one file, with the columns that were picked from the first.
    fn unpack_file(
        path: &Path,
        columns: &mut Option<Vec<String>>,
        pick: PickColumns,
        number: &mut u64,
        spool: &mut RowSpool,
    ) -> Result<(), Error> {
        let file = File::open(path).map_err(|e| Error::read(path, e))?;
        let failed = |e: ParquetError| Error::Input(format!("{}: {e}", path.display()));
        let reader = SerializedFileReader::new(file).map_err(failed)?;
        let schema = reader.metadata().file_metadata().schema();
        let names: Vec<String> = schema.get_fields().iter().map(|f| f.name().to_owned()).collect();
        let columns = match columns {
            Some(columns) => columns,
            none => none.insert(pick(&names)?),
        };
        if let Some(column) = columns.iter().find(|column| !names.contains(column)) {
            return Err(Error::Input(format!(
                "{}: no column `{column}`, which the first file has; its columns: {}",
                path.display(),
                names.join(", ")
            )));
        }
        if let Some(packed) = unsupported_compression(&reader, columns) {
            return Err(Error::Input(format!(
                "{}: compressed with {packed}: snappy, zstd and no compression are read, so write it again with one of these",
                path.display()
            )));
        }
        let projection = project_columns(schema, columns).map_err(failed)?;
        for row in reader.get_row_iter(Some(projection)).map_err(failed)? {
            *number += 1;
            spool.push(&row_to_object(&row.map_err(failed)?), *number)?;
        }
        Ok(())
    }

    /// The first compression of these columns that cannot be read.
    fn unsupported_compression(reader: &SerializedFileReader<File>, columns: &[String]) -> Option<Compression> {
        let chunks = reader.metadata().row_groups().iter().flat_map(RowGroupMetaData::columns);
        let needed =
            chunks.filter(|chunk| chunk.column_path().parts().first().is_some_and(|name| columns.contains(name)));
        let known = [Compression::UNCOMPRESSED, Compression::SNAPPY];
        let mut packed = needed.map(ColumnChunkMetaData::compression);
        packed.find(|packed| !known.contains(packed) && !matches!(packed, Compression::ZSTD(_)))
    }

    /// The schema with these columns only: the others are not even read.
    fn project_columns(schema: &Type, columns: &[String]) -> Result<Type, ParquetError> {
        let fields = schema.get_fields().iter().filter(|field| columns.iter().any(|name| name == field.name()));
        Type::group_type_builder(schema.name()).with_fields(fields.map(Arc::clone).collect()).build()
    }

    fn row_to_object(row: &Row) -> Map<String, Value> {
        let cell = |(name, field): (&String, &Field)| match field {
            // Hugging Face keeps images and audio like this.
            Field::Bytes(bytes) if name == "bytes" => (name.clone(), STANDARD.encode(bytes.data()).into()),
            field => (name.clone(), field_to_json(field)),
        };
        row.get_column_iter().map(cell).collect()
    }

    fn list_to_json(list: &List) -> Value {
        list.elements().iter().map(field_to_json).collect()
    }

    fn field_to_json(field: &Field) -> Value {
        match field {
            Field::Null => Value::Null,
            Field::Bool(yes) => (*yes).into(),
            Field::Byte(n) => (*n).into(),
            Field::Short(n) => (*n).into(),
            Field::Int(n) => (*n).into(),
            Field::Long(n) => (*n).into(),
            Field::UByte(n) => (*n).into(),
            Field::UShort(n) => (*n).into(),
            Field::UInt(n) => (*n).into(),
            Field::ULong(n) => (*n).into(),
            Field::Float(x) => (*x).into(),
            Field::Double(x) => (*x).into(),
            Field::Str(text) => text.as_str().into(),
            // Text that its writer did not mark as text, or binary data.
            Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
                Ok(text) => text.into(),
                Err(_) => STANDARD.encode(bytes.data()).into(),
            },
            Field::Group(row) => row_to_object(row).into(),
            Field::ListInternal(items) => list_to_json(items),
            // Dates, decimals and maps, which are not used in prompts.
            other => other.to_string().into(),
        }
    }
    #[cfg(test)]
    mod tests {
        use std::fs;

        use super::*;

        /// The errors for the file of questions with each of its bytes altered, in turn.
        fn errors_of_altered(name: &str, other: impl Fn(u8) -> u8) -> Vec<String> {
            let whole = include_bytes!("../../tests/data/hf-questions.parquet");
            let path = std::env::temp_dir().join(format!("vb-{name}-{}.parquet", std::process::id()));
            let mut messages = Vec::new();
            for place in 0..whole.len() {
                let mut bytes = whole.to_vec();
                bytes[place] = other(bytes[place]);
                fs::write(&path, bytes).unwrap();
                if let Err(e) = open_parquet(std::slice::from_ref(&path), &path, &mut |names| Ok(names.to_vec())) {
                    assert!(matches!(e, Error::Input(_)), "byte {place}: {e}");
                    messages.push(e.to_string().strip_prefix(path.to_str().unwrap()).unwrap().to_owned());
                }
            }
            fs::remove_file(&path).unwrap();
            messages
        }

        #[test]
        fn a_damaged_file_is_an_error_that_names_it() {
            let messages = errors_of_altered("damaged", |byte| byte ^ 0xFF);
            assert!(
                messages.iter().any(|what| what.contains("the file is damaged")),
                "the crate does not panic any more"
            );
        }

        #[test]
        fn a_compression_that_is_not_read_is_named() {
            // The number of gzip, in every place: one of them is the compression.
            let messages = errors_of_altered("packed", |_| 4);
            assert!(
                messages.iter().any(|what| what.contains("compressed with GZIP") && what.contains("zstd")),
                "{messages:?}"
            );
        }
    }
}
