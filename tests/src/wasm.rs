//! Modules that no server should take, made here byte by byte or from text.

use anyhow::Result;

/// A core module without any contract.
pub fn core_module() -> Result<Vec<u8>> {
    Ok(wat::parse_str(
        r#"(module (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))"#,
    )?)
}

/// A component that exports nothing.
pub fn empty_component() -> Result<Vec<u8>> {
    Ok(wat::parse_str("(component)")?)
}

/// A component that imports an interface which nobody provides.
pub fn unknown_import() -> Result<Vec<u8>> {
    Ok(wat::parse_str(
        r#"(component (import "acme:rockets/launch@1.0.0" (instance (export "fire" (func (param "at" u32))))))"#,
    )?)
}

/// A valid header and then only part of a section.
pub fn truncated(whole: &[u8]) -> Vec<u8> {
    whole[..whole.len() / 2].to_vec()
}

/// A core module with this many small functions: cheap to send, dear to compile.
pub fn many_functions(count: u32) -> Vec<u8> {
    let body = [2, 0, 0x0B]; // size, no locals, end
    module(&[
        (1, vec![1, 0x60, 0, 0]),
        (3, [leb(count), vec![0; count as usize]].concat()),
        (10, [leb(count), body.repeat(count as usize)].concat()),
    ])
}

/// A core module whose only function is very long.
pub fn huge_function(instructions: usize) -> Vec<u8> {
    let mut code = vec![1, 1, 0x7F]; // one local of type i32
    for _ in 0..instructions / 4 {
        code.extend([0x20, 0, 0x41, 7, 0x6C, 0x21, 0]); // local.get 0, i32.const 7, i32.mul, local.set 0
    }
    code.push(0x0B);
    module(&[(1, vec![1, 0x60, 0, 0]), (3, vec![1, 0]), (10, [leb(1), leb(code.len() as u32), code].concat())])
}

fn module(sections: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = b"\0asm\x01\0\0\0".to_vec();
    for (id, content) in sections {
        bytes.push(*id);
        bytes.extend(leb(content.len() as u32));
        bytes.extend(content);
    }
    bytes
}

fn leb(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_the_shortest_form() {
        assert_eq!(leb(0), [0]);
        assert_eq!(leb(127), [0x7F]);
        assert_eq!(leb(624_485), [0xE5, 0x8E, 0x26]);
    }
}
