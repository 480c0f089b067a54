//! Every bound of the product that two crates share, with the arithmetic behind it. Units come last.

use crate::Span;

/// A plan, volume or site name: a DNS label.
pub const NAME_BYTES_MAX: usize = 63;

/// Endpoints of one site: several addresses and names of each of its links, with room.
pub const ENDPOINTS_MAX: usize = 8;

/// Longest endpoint: a DNS name of 253 bytes, a colon and a port.
pub const ENDPOINT_BYTES_MAX: usize = 259;

/// One path of a manifest. Linux limits one *call* to 4096 bytes, not the depth of a tree; deeper trees are
/// walked folder by folder, and 64 KiB is 16 times what any tool can address at once.
pub const PATH_BYTES_MAX: usize = 64 << 10;

/// One component of a path, the limit of every Linux file system.
pub const COMPONENT_BYTES_MAX: usize = 255;

/// All extended attributes of one entry: eight values of the kernel's 64 KiB limit.
pub const XATTRS_BYTES_MAX: usize = 512 << 10;

/// Largest chunk, before compression.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Largest stored form of a chunk: zstd's worst case on 1 MiB is under 5 KiB more.
pub const CHUNK_STORED_BYTES_MAX: usize = CHUNK_BYTES_MAX + (16 << 10);

/// A manifest segment is cut at the first anchor after this size …
pub const SEGMENT_BYTES_MIN: usize = 16 << 10;
/// … and without one here. One entry (path + attributes) always fits behind it within `CHUNK_BYTES_MAX`.
pub const SEGMENT_BYTES_MAX: usize = 256 << 10;

/// Segment ids in one index node: 4096 × 36 bytes = 144 KiB.
pub const NODE_SEGMENTS_MAX: usize = 4096;

/// Nodes in a manifest root: 8192 × 32 bytes = 256 KiB; with 64 KiB segments, 2 TiB of manifest.
pub const ROOT_NODES_MAX: usize = 8192;

/// Extents in one record: 512 × 36 bytes = 18 KiB.
pub const RECORD_EXTENTS_MAX: usize = 512;

/// Volumes of one plan.
pub const PLAN_VOLUMES_MAX: usize = 256;

/// One control frame.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// Chunk ids in one offer: 8192 × 32 bytes = 256 KiB.
pub const OFFER_IDS_MAX: usize = 8192;

/// Chunks of a manifest in one answer, before compression: with a few bytes for each it fits a frame also where nothing
/// compresses, and a segment of the worst kind, 832 KiB, fits it.
pub const TREE_BYTES_MAX: usize = 960 << 10;

/// Ids in one question for chunks of a manifest: of 1 KiB each they fill the answer.
pub const TREE_IDS_MAX: usize = 1024;

/// Chunks in one question for sectors: the side that answers reads them all, 32 MiB of usual ones.
pub const SECTOR_IDS_MAX: usize = 512;

/// Sectors in one answer: 64 Ki × 8 bytes = 512 KiB, for 256 MiB of content.
pub const SECTORS_MAX: usize = 64 << 10;

/// Stored bytes of one batch, header included: 4 MiB of records and one largest chunk on top.
pub const BATCH_BYTES_MAX: usize = (4 << 20) + CHUNK_STORED_BYTES_MAX;

/// A batch is closed once it holds this much.
pub const BATCH_BYTES_TARGET: usize = 2 << 20;

/// Records of one batch: at 64 bytes a chunk, 2 MiB.
pub const BATCH_RECORDS_MAX: usize = 32 << 10;

/// Chunks a sender keeps in memory between offering them and having them stored: 1 Gbit/s × 200 ms is 25 MB;
/// twice that keeps the link busy while answers travel.
pub const SEND_WINDOW_BYTES: u64 = 48 << 20;

/// A base of a patch, and how deep patches may stand on one another.
pub const PATCH_DEPTH_MAX: u8 = 4;

/// Chunks one patch may refer to as its base: a 1 MiB range over 16 KiB chunks, plus both ends.
pub const PATCH_BASES_MAX: usize = 66;

/// A pack is sealed at this size.
pub const PACK_BYTES_TARGET: u64 = 64 << 20;

/// Fields, and volumes and namespaces, that a site names as changed by its peer and not accepted: the rest is not named.
pub const PROPOSED_NAMES_MAX: usize = 64;

/// One of those names; a volume of a claim is named by namespace and claim.
pub const PROPOSED_NAME_BYTES_MAX: usize = 320;

/// An error message from a peer.
pub const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// Entries of one list of a rule: targets, labels, actions.
pub const RULE_ITEMS_MAX: usize = 64;

/// One command of a rule. It travels in the address of a request, of which an API server reads 1 MiB.
pub const RULE_COMMAND_BYTES_MAX: usize = 16 << 10;

/// How long an action of a rule may take, unless it says.
pub const RULE_TIMEOUT_DEFAULT: Span = Span::from_secs(30);

/// … and if it says: a flush of hundreds of gigabytes.
pub const RULE_TIMEOUT_MAX: Span = Span::from_secs(3600);

/// Probes of one plan's drill, which are looked at one after the other.
pub const DRILL_PROBES_MAX: usize = 32;

/// How long workloads of a drill may take to be ready and a probe to pass, unless the plan says.
pub const DRILL_TIMEOUT_DEFAULT: Span = Span::from_secs(60);

/// … and if it says: a database that recovers from its log.
pub const DRILL_TIMEOUT_MAX: Span = Span::from_secs(3600);

/// Units, or control groups, of one hold, which are held one after the other.
pub const HOLD_ITEMS_MAX: usize = 32;

/// How long a command that holds or releases may take, unless the plan says.
pub const HOLD_TIMEOUT_DEFAULT: Span = Span::from_secs(30);

/// … and if it says: a database that writes out its memory.
pub const HOLD_TIMEOUT_MAX: Span = Span::from_secs(3600);

/// A plan as text.
pub const PLAN_BYTES_MAX: usize = 256 << 10;

/// Restore points in one answer: 200 of a plan with 40 volumes (4 KiB each) fit a frame.
pub const LISTED_POINTS_MAX: usize = 200;

/// Offers a sender has open at once; a receiver refuses more. 64 × 8192 ids × 32 bytes = 16 MiB at the worst, and
/// 64 × 512 ids of a usual offer cover the window of a sender even in chunks of 1.5 KiB.
pub const OFFERS_OPEN_MAX: usize = 64;

/// Batches a receiver works on or has stored ahead of a missing one. A sender's window holds 24 full batches of
/// incompressible chunks; the rest is for those that were cut short.
pub const BATCHES_OPEN_MAX: usize = 256;
