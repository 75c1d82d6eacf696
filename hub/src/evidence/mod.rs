//! The tree over the journal's records, and the receipts made of it.
/// stub
pub struct Tree;
#[allow(missing_docs)]
impl Tree {
    pub fn append(&mut self, _: &[[u8; 32]]) {}
    pub fn size(&self) -> u64 {
        0
    }
    pub fn root(&self) -> [u8; 32] {
        [0; 32]
    }
    pub fn persist(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
