//! Parquet files, with the cargo feature of this name.

#[cfg(feature = "parquet")]
pub use with::open;
#[cfg(not(feature = "parquet"))]
pub use without::open;

#[cfg(not(feature = "parquet"))]
mod without {
    use std::path::{Path, PathBuf};

    use crate::{
        data::{Rows, table::Pick},
        error::Error,
    };

    /// Says what is missing.
    pub fn open(_: &[PathBuf], name: &Path, _: Pick) -> Result<Rows, Error> {
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
        file::reader::{FileReader, SerializedFileReader},
        record::{Field, List, Row},
        schema::types::Type,
    };
    use serde_json::{Map, Value};

    use crate::{
        data::{Rows, spool::Spool, table::Pick},
        error::Error,
    };

    /// The rows of these files, one behind the other, unpacked into a temporary file; `name` is what messages call all of them.
    pub fn open(paths: &[PathBuf], name: &Path, pick: Pick) -> Result<Rows, Error> {
        let mut spool = Spool::new()?;
        let (mut columns, mut number) = (Vec::new(), 0);
        for (i, path) in paths.iter().enumerate() {
            let file = File::open(path).map_err(|e| Error::read(path, e))?;
            let failed = |e: parquet::errors::ParquetError| Error::Input(format!("{}: {e}", path.display()));
            let reader = SerializedFileReader::new(file).map_err(failed)?;
            let schema = reader.metadata().file_metadata().schema();
            if i == 0 {
                columns = pick(&schema.get_fields().iter().map(|f| f.name().to_owned()).collect::<Vec<String>>())?;
            }
            let projection = only(schema, &columns).map_err(failed)?;
            for row in reader.get_row_iter(Some(projection)).map_err(failed)? {
                number += 1;
                spool.push(&object(&row.map_err(failed)?), number)?;
            }
        }
        spool.rows(name.display().to_string(), ": row ")
    }

    /// The schema with these columns only: the others are not even read.
    fn only(schema: &Type, columns: &[String]) -> Result<Type, parquet::errors::ParquetError> {
        let fields = schema.get_fields().iter().filter(|field| columns.iter().any(|name| name == field.name()));
        Type::group_type_builder(schema.name()).with_fields(fields.map(Arc::clone).collect()).build()
    }

    fn object(row: &Row) -> Map<String, Value> {
        let cell = |(name, field): (&String, &Field)| match field {
            // As Hugging Face keeps images and sound.
            Field::Bytes(bytes) if name == "bytes" => (name.clone(), STANDARD.encode(bytes.data()).into()),
            field => (name.clone(), value(field)),
        };
        row.get_column_iter().map(cell).collect()
    }

    fn list(list: &List) -> Value {
        list.elements().iter().map(value).collect()
    }

    fn value(field: &Field) -> Value {
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
            // Text that its writer did not mark as such, or no text at all.
            Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
                Ok(text) => text.into(),
                Err(_) => STANDARD.encode(bytes.data()).into(),
            },
            Field::Group(row) => object(row).into(),
            Field::ListInternal(items) => list(items),
            // Dates, decimals and maps, which no prompt is made of.
            other => other.to_string().into(),
        }
    }
}
