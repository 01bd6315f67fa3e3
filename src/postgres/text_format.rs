//! Values as PostgreSQL writes them in text: parameters of a statement, columns of a row, fields of COPY.

use super::sql_error::{SqlError, SqlFault};

/// A value that can be sent. The statement says of which type it is (`$1::uuid`).
pub trait Parameter {
    /// Appends its text; false where it is null.
    fn write(&self, text: &mut String) -> bool;
}

impl Parameter for str {
    fn write(&self, text: &mut String) -> bool {
        text.push_str(self);
        true
    }
}

impl Parameter for String {
    fn write(&self, text: &mut String) -> bool {
        self.as_str().write(text)
    }
}

impl<T: Parameter + ?Sized> Parameter for &T {
    fn write(&self, text: &mut String) -> bool {
        (**self).write(text)
    }
}

impl<T: Parameter> Parameter for Option<T> {
    fn write(&self, text: &mut String) -> bool {
        self.as_ref().is_some_and(|value| value.write(text))
    }
}

/// An array of one dimension (PostgreSQL's manual, §8.15.6), each element quoted.
impl<T: Parameter> Parameter for [T] {
    fn write(&self, text: &mut String) -> bool {
        text.push('{');
        for (place, element) in self.iter().enumerate() {
            if place > 0 {
                text.push(',');
            }
            let mut plain = String::new();
            if !element.write(&mut plain) {
                text.push_str("NULL");
                continue;
            }
            text.push('"');
            for letter in plain.chars() {
                if matches!(letter, '"' | '\\') {
                    text.push('\\');
                }
                text.push(letter);
            }
            text.push('"');
        }
        text.push('}');
        true
    }
}

impl<T: Parameter> Parameter for Vec<T> {
    fn write(&self, text: &mut String) -> bool {
        self.as_slice().write(text)
    }
}

macro_rules! as_displayed {
    ($($type:ty),*) => {$(
        impl Parameter for $type {
            fn write(&self, text: &mut String) -> bool {
                text.push_str(&self.to_string());
                true
            }
        }
    )*};
}
as_displayed!(bool, i16, i32, i64, u32);

/// A value that can be read from a column.
pub trait Column: Sized {
    /// `None` where the text is no such value.
    fn read(text: Option<&str>) -> Option<Self>;
}

impl Column for String {
    fn read(text: Option<&str>) -> Option<Self> {
        text.map(str::to_owned)
    }
}

impl Column for bool {
    fn read(text: Option<&str>) -> Option<Self> {
        match text? {
            "t" => Some(true),
            "f" => Some(false),
            _ => None,
        }
    }
}

impl<T: Column> Column for Option<T> {
    fn read(text: Option<&str>) -> Option<Self> {
        match text {
            None => Some(None),
            some => T::read(some).map(Some),
        }
    }
}

macro_rules! as_parsed {
    ($($type:ty),*) => {$(
        impl Column for $type {
            fn read(text: Option<&str>) -> Option<Self> {
                text?.parse().ok()
            }
        }
    )*};
}
as_parsed!(i16, i32, i64, i128);

/// A row of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row(pub(super) Vec<Option<String>>);

impl Row {
    /// The value in a column, counted from 0.
    ///
    /// # Errors
    /// There is no such column, or it holds something else: the statement is not of this build.
    pub fn get<T: Column>(&self, column: usize) -> Result<T, SqlError> {
        let found = self.0.get(column).and_then(|text| T::read(text.as_deref()));
        found.ok_or_else(|| {
            let kind = std::any::type_name::<T>();
            SqlError::new(SqlFault::Statement, format!("column {column} of an answer is no {kind}: {:?}", self.0))
        })
    }
}

/// Appends a field of a row for `COPY … FROM STDIN` in its text format (PostgreSQL's manual, "COPY"): null, or a text
/// with what ends fields and lines escaped, and what cannot be stored replaced. The caller puts tabs between and line
/// feeds behind.
pub fn copy_field(out: &mut Vec<u8>, value: Option<&str>) {
    let Some(text) = value else { return out.extend_from_slice(b"\\N") };
    for &byte in text.as_bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0 => out.extend_from_slice("\u{fffd}".as_bytes()), // text there holds no zero
            byte => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_and_fields_are_quoted() {
        let mut text = String::new();
        assert!(vec![Some("a\"b\\,{}"), None, Some("NULL")].write(&mut text));
        assert_eq!(text, r#"{"a\"b\\,{}",NULL,"NULL"}"#);
        let mut field = Vec::new();
        copy_field(&mut field, Some("a\tb\\N\n\r"));
        copy_field(&mut field, None);
        assert_eq!(field, br"a\tb\\N\n\r\N");
        assert_eq!(Row(vec![Some("7".into()), None]).get::<i64>(0).unwrap(), 7);
        assert_eq!(Row(vec![None]).get::<Option<i64>>(0).unwrap(), None);
        assert!(Row(vec![None]).get::<i64>(0).is_err() && Row(vec![]).get::<i64>(0).is_err());
    }
}
