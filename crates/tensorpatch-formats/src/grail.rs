//! grail's sparse deltas, read only: one zstd frame with a JSON header and the positions and values of all
//! tensors.
//!
//! Three versions differ in how positions are written. There is no checksum and no version of the model in
//! the file. grail finds changes by comparing numbers, so that its files lack a change of +0.0 to -0.0. The
//! frame holds all tensors, so that it is in memory as a whole.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use tensorpatch_format::{LimitKind, Limits, TensorSpec};

use crate::tensor_delta::elements;
use crate::{Fault, Operation, Places, TensorDelta, Violation, frame, json, positions, torch};

/// The most bytes of positions for each element: a row and a column of four bytes.
const POSITION_BYTES: u64 = 8;

#[derive(Debug, Deserialize)]
struct Head {
    version: u64,
    tensors: Vec<Tensor>,
}

#[derive(Debug, Deserialize)]
struct Tensor {
    name: String,
    shape: Vec<u64>,
    num_nonzero: u64,
    value_dtype: String,
    indices_offset: u64,
    indices_size: u64,
    rows_size: Option<u64>,
    cols_size: Option<u64>,
    row_dtype: Option<String>,
    col_dtype: Option<String>,
    values_offset: u64,
    values_size: u64,
}

/// How positions are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    /// Version 2: differences of flat positions.
    Flat,
    /// Versions 3 and 3.1: differences of rows; columns within a row.
    Rows,
}

/// A delta, unpacked, its parts checked against each other.
#[derive(Debug)]
pub struct GrailDelta {
    coding: Coding,
    data: Vec<u8>,
    tensors: BTreeMap<String, Tensor>,
}

impl GrailDelta {
    /// Reads a file that is a delta from a state of `state_bytes` bytes.
    ///
    /// # Errors
    /// If it is not one zstd frame that states its size, that is more than such a delta can need or `limits`
    /// allow, the header is broken, or the tensors do not share the data out between them without gap or
    /// overlap.
    pub fn parse(bytes: &[u8], state_bytes: u64, limits: &Limits) -> Result<Self, Fault> {
        let size = frame::content_size(bytes)?;
        let most = state_bytes.saturating_mul(POSITION_BYTES.saturating_add(1));
        let most = most.min(limits.state_bytes).saturating_add(limits.header_bytes).saturating_add(4);
        Violation::limit(LimitKind::StateBytes, size, most)?;
        let mut content = frame::unpack(bytes, size)?;
        let Some((len, rest)) = content.split_first_chunk::<4>() else {
            return Err(Violation::Missing("the length of the header").into());
        };
        let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
        let header = rest.get(..len).ok_or(Violation::Missing("a part of the header"))?;
        let head: Head = json::parse(header, limits)?;
        let data = content.split_off(len.saturating_add(4));
        Violation::limit(LimitKind::Tensors, head.tensors.len() as u64, limits.tensors)?;
        let coding = match head.version {
            2 => Coding::Flat,
            3 | 31 => Coding::Rows,
            other => return Err(Violation::differs("version", "2, 3 or 31", other).into()),
        };
        let mut delta = Self { coding, data, tensors: BTreeMap::new() };
        let mut end = 0;
        for tensor in head.tensors {
            end = check(&tensor, coding, end).map_err(|violation| violation.of(&tensor.name))?;
            let name = tensor.name.clone();
            if delta.tensors.insert(name.clone(), tensor).is_some() {
                return Err(Violation::Twice("the tensor").of(&name));
            }
        }
        if end != delta.data.len() as u64 {
            return Err(Violation::differs("bytes of data", end, delta.data.len()).into());
        }
        Ok(delta)
    }

    /// The tensors that change.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The change of a tensor of the base, or `None` if it keeps its bytes.
    ///
    /// # Errors
    /// If dtype or shape are not those of the base, or the bytes are not positions and values of it.
    pub fn decode(&self, spec: &TensorSpec) -> Result<Option<TensorDelta<'_>>, Fault> {
        let Some(tensor) = self.tensors.get(&spec.name) else { return Ok(None) };
        self.decode_tensor(spec, tensor).map(Some).map_err(|violation| violation.of(&spec.name))
    }

    fn decode_tensor(&self, spec: &TensorSpec, tensor: &Tensor) -> Result<TensorDelta<'_>, Violation> {
        torch::check(spec, &tensor.value_dtype, &tensor.shape)?;
        let width = spec.dtype.element_format().width();
        let elements = elements(spec, width);
        let values = self.part(tensor.values_offset, tensor.values_size)?;
        let positions = match self.coding {
            Coding::Flat => flat(self.part(tensor.indices_offset, tensor.indices_size)?, elements)?,
            Coding::Rows => {
                let (rows, columns) =
                    (tensor.rows_size.unwrap_or_default(), tensor.cols_size.unwrap_or_default());
                let rows_at = tensor.indices_offset;
                let rows = numbers(self.part(rows_at, rows)?, tensor.row_dtype.as_deref(), elements)?;
                let at = rows_at.saturating_add(tensor.rows_size.unwrap_or_default());
                let columns = numbers(self.part(at, columns)?, tensor.col_dtype.as_deref(), elements)?;
                by_rows(&rows, &columns, &tensor.shape, elements)?
            }
        };
        if positions.len() as u64 != tensor.num_nonzero {
            return Err(Violation::differs("num_nonzero", positions.len(), tensor.num_nonzero));
        }
        let places = Places::At { width, positions };
        Ok(TensorDelta {
            operation: Operation::Overwrite,
            places,
            values: Cow::Borrowed(values),
            checksum: None,
        })
    }

    fn part(&self, offset: u64, size: u64) -> Result<&[u8], Violation> {
        let end = offset.checked_add(size).and_then(|end| usize::try_from(end).ok());
        let part = usize::try_from(offset).ok().zip(end).and_then(|(start, end)| self.data.get(start..end));
        part.ok_or(Violation::Missing("a part of the data"))
    }
}

/// Says that a tensor's parts follow each other from `start`, and where they end.
fn check(tensor: &Tensor, coding: Coding, start: u64) -> Result<u64, Violation> {
    let follow = |what, expected: u64, found: u64| {
        if expected == found { Ok(()) } else { Err(Violation::differs(what, expected, found)) }
    };
    follow("indices_offset", start, tensor.indices_offset)?;
    let values = start.saturating_add(tensor.indices_size);
    follow("values_offset", values, tensor.values_offset)?;
    if coding == Coding::Rows {
        let rows = tensor.rows_size.ok_or(Violation::Missing("rows_size"))?;
        let columns = tensor.cols_size.ok_or(Violation::Missing("cols_size"))?;
        follow("rows_size and cols_size", tensor.indices_size, rows.saturating_add(columns))?;
    }
    Ok(values.saturating_add(tensor.values_size))
}

/// Numbers of a dtype that grail uses for rows and columns.
fn numbers(bytes: &[u8], dtype: Option<&str>, elements: u64) -> Result<Vec<u64>, Violation> {
    match dtype.unwrap_or("int32") {
        "int32" => positions::from_i32(bytes, elements),
        "uint16" => positions::unsigned(bytes, 2, elements),
        "uint8" => positions::unsigned(bytes, 1, elements),
        other => Err(Violation::differs("dtype of positions", "int32, uint16 or uint8", other)),
    }
}

/// The first number is a position, each other one the distance from the one before.
fn flat(bytes: &[u8], elements: u64) -> Result<Vec<u64>, Violation> {
    let mut at = 0_u64;
    let mut distances = positions::from_i32(bytes, elements)?;
    for distance in &mut distances {
        at = at.saturating_add(*distance);
        *distance = at;
    }
    Ok(distances)
}

/// Rows as distances from the one before; columns likewise, but absolute where a row begins.
fn by_rows(rows: &[u64], columns: &[u64], shape: &[u64], elements: u64) -> Result<Vec<u64>, Violation> {
    if rows.len() != columns.len() {
        return Err(Violation::differs("columns", rows.len(), columns.len()));
    }
    let width = shape.iter().skip(1).fold(1_u64, |width, dim| width.saturating_mul(*dim));
    let (mut row, mut column) = (0_u64, 0_u64);
    let mut out = Vec::with_capacity(rows.len());
    for (number, (&down, &right)) in rows.iter().zip(columns).enumerate() {
        column = if number == 0 || down > 0 { right } else { column.saturating_add(right) };
        row = row.saturating_add(down);
        // A column beyond its row would be a place in another one.
        if column >= width {
            let (number, position) = (number as u64, row.saturating_mul(width).saturating_add(column));
            return Err(Violation::Position { number, position, count: elements });
        }
        out.push(row.saturating_mul(width).saturating_add(column));
    }
    Ok(out)
}
