-- Wireshark dissector of the multicast protocol, version 1 (docs/PROTOCOL.md).
--
--   tshark -X lua_script:frisbee.lua -r capture.pcap
--   wireshark -X lua_script:frisbee.lua capture.pcap
--
-- or put it into the folder "Personal Lua Plugins" (Help, About, Folders). Datagrams are recognised by their form on any
-- port; filter by "frisbee", "frisbee.type == 2", "frisbee.request.lost > 0".

local VERSION = 1
local HEADER = 32
local LONGEST = 1452
local BLOCK = 1024
local VALUE = 32
local PROMISE = 64
local REPAIRS = 16
local ANNOUNCE_HEAD = 276
local REQUEST_ITEMS = 92
local ITEM = 12
local MOST_ITEMS = 64
local NOT_HEARD = 0xffffffff
local PROBE_SIZE = 72

local ANNOUNCE, REQUEST, DATA, PROOF, PARITY, CHALLENGE, PROBE, PROBE_REPLY = 1, 2, 3, 4, 5, 6, 7, 8
local TYPES = {
    [ANNOUNCE] = "ANNOUNCE",
    [REQUEST] = "REQUEST",
    [DATA] = "DATA",
    [PROOF] = "PROOF",
    [PARITY] = "PARITY",
    [CHALLENGE] = "CHALLENGE",
    [PROBE] = "PROBE",
    [PROBE_REPLY] = "PROBE-REPLY",
}
local WHOLE, BLOCKS, NODE, ANY_PARITY = 0, 1, 2, 3
local KINDS = {
    [WHOLE] = "whole object",
    [BLOCKS] = "blocks",
    [NODE] = "node",
    [ANY_PARITY] = "parity blocks",
}
local FAMILIES = { [0] = "source of this datagram", [4] = "IPv4", [6] = "IPv6" }
local PHASES = { [0] = "idle", "sizes", "rates", "done" }
local UNICAST, GROUP, ALL_HOSTS, BROADCAST = 0, 1, 2, 3
local WAYS = {
    [UNICAST] = "to one machine",
    [GROUP] = "to the group",
    [ALL_HOSTS] = "to the group of all machines",
    [BROADCAST] = "to the broadcast address",
}

local frisbee = Proto("frisbee", "Frisbee multicast disk imaging")

local f = {
    version = ProtoField.uint8("frisbee.version", "Version"),
    type = ProtoField.uint8("frisbee.type", "Type", base.DEC, TYPES),
    stream = ProtoField.uint16("frisbee.stream", "Stream", base.HEX),
    sequence = ProtoField.uint32("frisbee.sequence", "Sequence"),
    uuid = ProtoField.guid("frisbee.uuid", "Image UUID"),
    object = ProtoField.uint32("frisbee.object", "Object"),
    position = ProtoField.uint32("frisbee.position", "Position", base.HEX),

    block = ProtoField.uint32("frisbee.data.block", "Block"),
    bytes = ProtoField.bytes("frisbee.data.bytes", "Bytes of the block"),

    level = ProtoField.uint8("frisbee.proof.level", "Level of the node"),
    index = ProtoField.uint24("frisbee.proof.index", "Node of this level"),
    child = ProtoField.bytes("frisbee.proof.child", "Chaining value"),

    parity_index = ProtoField.uint16("frisbee.parity.index", "Parity block"),
    parity_queued = ProtoField.uint16("frisbee.parity.queued", "Parity blocks queued behind it"),
    parity_bytes = ProtoField.bytes("frisbee.parity.bytes", "Bytes of the parity block"),
    parity_path = ProtoField.bytes("frisbee.parity.path", "Value beside the way to the root"),

    rate = ProtoField.uint64("frisbee.announce.rate", "Rate aimed at, bit/s"),
    cursor = ProtoField.uint32("frisbee.announce.cursor", "Cursor: object sent whole next"),
    queued = ProtoField.uint32("frisbee.announce.queued", "Objects queued"),
    announce_flags = ProtoField.uint32("frisbee.announce.flags", "Flags", base.HEX),
    idle = ProtoField.bool("frisbee.announce.idle", "Idle: nothing is queued", 32, nil, 1),
    lane = ProtoField.bool("frisbee.announce.lane", "Lane: to one client alone", 32, nil, 2),
    family = ProtoField.uint16("frisbee.announce.family", "Request address, family", base.DEC, FAMILIES),
    port = ProtoField.uint16("frisbee.announce.port", "Request address, port"),
    ipv4 = ProtoField.ipv4("frisbee.announce.ipv4", "Request address"),
    ipv6 = ProtoField.ipv6("frisbee.announce.ipv6", "Request address"),
    promise = ProtoField.bytes("frisbee.announce.promise", "Promise, from the cursor on"),
    promised = ProtoField.uint32("frisbee.announce.promised", "Object that will be sent whole"),
    time = ProtoField.uint32("frisbee.announce.time", "Server's clock, us"),
    grtt = ProtoField.uint32("frisbee.announce.grtt", "Round trip to most clients, us"),
    receivers = ProtoField.uint32("frisbee.announce.receivers", "Clients that there seem to be"),
    repair_object = ProtoField.uint32("frisbee.announce.repair.object", "Object"),
    repair_parity = ProtoField.uint16("frisbee.announce.repair.parity", "Parity blocks queued"),
    head = ProtoField.bytes("frisbee.announce.head", "Signed head of the manifest"),

    client = ProtoField.uint64("frisbee.request.client", "Client", base.HEX),
    token = ProtoField.uint64("frisbee.request.token", "Token", base.HEX),
    request_flags = ProtoField.uint32("frisbee.request.flags", "Flags", base.HEX),
    done = ProtoField.bool("frisbee.request.done", "Done: it has everything", 32, nil, 1),
    unicast = ProtoField.bool("frisbee.request.unicast", "Unicast: send to it alone", 32, nil, 2),
    received = ProtoField.uint32("frisbee.request.received", "Datagrams received since the last REQUEST"),
    lost = ProtoField.uint32("frisbee.request.lost", "Datagrams missing among them"),
    dropped = ProtoField.uint32("frisbee.request.dropped", "Of these, dropped by its own system"),
    no_buffer = ProtoField.uint32("frisbee.request.no_buffer", "Blocks that passed without a free buffer"),
    free_blocks = ProtoField.uint32("frisbee.request.free_blocks", "Blocks that it has free buffers for"),
    objects_done = ProtoField.uint32("frisbee.request.objects_done", "Objects that it has"),
    objects_written = ProtoField.uint32("frisbee.request.objects_written", "Objects on its disk"),
    echo = ProtoField.uint32("frisbee.request.echo", "Time of the ANNOUNCE heard last, us"),
    held = ProtoField.uint32("frisbee.request.held", "Passed since then, us"),
    items = ProtoField.uint32("frisbee.request.items", "Items"),
    item_object = ProtoField.uint32("frisbee.item.object", "Object"),
    item_kind = ProtoField.uint8("frisbee.item.kind", "Kind", base.DEC, KINDS),
    item_first = ProtoField.uint32("frisbee.item.first", "First block"),
    item_level = ProtoField.uint8("frisbee.item.level", "Level of the node"),
    item_index = ProtoField.uint24("frisbee.item.index", "Node of this level"),
    item_count = ProtoField.uint32("frisbee.item.count", "Parity blocks wanted"),
    item_length = ProtoField.uint16("frisbee.item.length", "Bytes of bitmap"),
    item_bitmap = ProtoField.bytes("frisbee.item.bitmap", "Bitmap"),
    item_block = ProtoField.uint32("frisbee.item.block", "Block wanted"),

    challenge_client = ProtoField.uint64("frisbee.challenge.client", "Client", base.HEX),
    challenge_token = ProtoField.uint64("frisbee.challenge.token", "Token to repeat", base.HEX),

    run = ProtoField.uint16("frisbee.probe.run", "Run", base.HEX),
    probe_token = ProtoField.uint64("frisbee.probe.token", "Token", base.HEX),
    probe_client = ProtoField.uint64("frisbee.probe.client", "Client", base.HEX),
    step = ProtoField.uint8("frisbee.probe.step", "Step"),
    way = ProtoField.uint8("frisbee.probe.way", "Way of this datagram", base.DEC, WAYS),
    probe_rate = ProtoField.uint64("frisbee.probe.rate", "Rate of the step, bit/s"),
    number = ProtoField.uint32("frisbee.probe.number", "Number in the step"),
    before = ProtoField.uint32("frisbee.probe.before", "Datagrams of the step before"),
    phase = ProtoField.uint8("frisbee.probe.phase", "Phase", base.DEC, PHASES),
    ttl = ProtoField.uint8("frisbee.probe.ttl", "Time to live of the group's datagrams"),
    heard = ProtoField.uint8("frisbee.probe.heard", "Ways on which the client was heard", base.HEX),
    heard_way = ProtoField.uint8("frisbee.probe.heard.way", "Heard", base.DEC, WAYS),
    probe_flags = ProtoField.uint8("frisbee.probe.flags", "Flags", base.HEX),
    takes_part = ProtoField.bool("frisbee.probe.takes_part", "Takes part: the client is counted", 8, nil, 1),
    load = ProtoField.bool("frisbee.probe.load", "Load: counted in the step", 8, nil, 2),
    by_group = ProtoField.uint32("frisbee.probe.by_group", "Datagrams received by the group"),
    by_all_hosts = ProtoField.uint32("frisbee.probe.by_all_hosts", "Datagrams received by the group of all machines"),
    loads = ProtoField.uint32("frisbee.probe.received", "Loads received of the step"),
    loads_lost = ProtoField.uint16("frisbee.probe.lost", "Loads lost of a thousand"),
    largest = ProtoField.uint16("frisbee.probe.largest", "Bytes of the largest load"),
    enough = ProtoField.bool("frisbee.probe.done", "Done: the client has heard enough", 8, nil, 1),
}
frisbee.fields = f

local malformed = ProtoExpert.new("frisbee.malformed", "Not a datagram of this protocol",
    expert.group.MALFORMED, expert.severity.ERROR)
frisbee.experts = { malformed }

-- Whether bit number `bit` is set, without operators that older versions of Lua do not have.
local function is_set(byte, bit)
    return math.floor(byte / 2 ^ bit) % 2 == 1
end

local function announce(tvb, tree)
    tree:add_le(f.rate, tvb(32, 8))
    tree:add_le(f.cursor, tvb(40, 4))
    tree:add_le(f.queued, tvb(44, 4))
    local flags = tree:add_le(f.announce_flags, tvb(48, 4))
    flags:add_le(f.idle, tvb(48, 4))
    flags:add_le(f.lane, tvb(48, 4))
    local family = tvb(52, 2):le_uint()
    tree:add_le(f.family, tvb(52, 2))
    if family == 4 then
        tree:add(f.ipv4, tvb(56, 4))
    elseif family == 6 then
        tree:add(f.ipv6, tvb(56, 16))
    elseif family ~= 0 then
        tree:add_proto_expert_info(malformed, "No family of addresses")
    end
    tree:add_le(f.port, tvb(54, 2))
    local promise = tree:add(f.promise, tvb(72, PROMISE))
    local cursor, promised = tvb(40, 4):le_uint(), 0
    for place = 0, PROMISE * 8 - 1 do
        local byte = tvb(72 + math.floor(place / 8), 1)
        if is_set(byte:uint(), place % 8) and cursor + place <= 0xffffffff then
            promise:add(f.promised, byte, cursor + place)
            promised = promised + 1
        end
    end
    tree:add_le(f.time, tvb(136, 4))
    tree:add_le(f.grtt, tvb(140, 4))
    tree:add_le(f.receivers, tvb(144, 4))
    for place = 0, REPAIRS - 1 do
        local entry = tvb(148 + place * 8, 8)
        if entry(0, 4):le_uint() ~= 0 then
            local repair = tree:add(frisbee, entry, "Repair")
            repair:add_le(f.repair_object, entry(0, 4))
            repair:add_le(f.repair_parity, entry(4, 2))
        end
    end
    tree:add(f.head, tvb(ANNOUNCE_HEAD, BLOCK))
    local idle = is_set(tvb(48, 1):uint(), 0) and ", idle" or ""
    local lane = is_set(tvb(48, 1):uint(), 1) and ", lane" or ""
    return string.format("%.1f Mbit/s, cursor %d, %d promised%s%s",
        tvb(32, 8):le_uint64():tonumber() / 1e6, cursor, promised, idle, lane)
end

-- One item; returns the place behind it, or nothing if it is not one.
local function item(tvb, at, tree)
    if at + ITEM > tvb:len() then return nil end
    local kind, length = tvb(at + 8, 1):uint(), tvb(at + 10, 2):le_uint()
    local position = tvb(at + 4, 4)
    if at + ITEM + length > tvb:len() or KINDS[kind] == nil or (kind == BLOCKS) ~= (length > 0) then
        return nil
    end
    if kind == ANY_PARITY and (position:le_uint() == 0 or position:le_uint() > 0xffff) then
        return nil
    end
    local branch = tree:add(frisbee, tvb(at, ITEM + length),
        string.format("Object %d: %s", tvb(at, 4):le_uint(), KINDS[kind]))
    branch:add_le(f.item_object, tvb(at, 4))
    branch:add(f.item_kind, tvb(at + 8, 1))
    if kind == BLOCKS then
        branch:add_le(f.item_first, position)
    elseif kind == NODE then
        branch:add(f.item_level, position(3, 1))
        branch:add_le(f.item_index, position(0, 3))
    elseif kind == ANY_PARITY then
        branch:add_le(f.item_count, position)
    end
    branch:add_le(f.item_length, tvb(at + 10, 2))
    if length > 0 then
        local bitmap = branch:add(f.item_bitmap, tvb(at + ITEM, length))
        for place = 0, length * 8 - 1 do
            local byte = tvb(at + ITEM + math.floor(place / 8), 1)
            local block = position:le_uint() + place
            if is_set(byte:uint(), place % 8) and block <= 0xffffffff then
                bitmap:add(f.item_block, byte, block)
            end
        end
    end
    return at + ITEM + length
end

local function request(tvb, tree)
    tree:add_le(f.client, tvb(32, 8))
    tree:add_le(f.token, tvb(40, 8))
    local flags = tree:add_le(f.request_flags, tvb(48, 4))
    flags:add_le(f.done, tvb(48, 4))
    flags:add_le(f.unicast, tvb(48, 4))
    tree:add_le(f.received, tvb(52, 4))
    tree:add_le(f.lost, tvb(56, 4))
    tree:add_le(f.dropped, tvb(60, 4))
    tree:add_le(f.no_buffer, tvb(64, 4))
    tree:add_le(f.free_blocks, tvb(68, 4))
    tree:add_le(f.objects_done, tvb(72, 4))
    tree:add_le(f.objects_written, tvb(76, 4))
    if tvb(84, 4):le_uint() ~= NOT_HEARD then
        tree:add_le(f.echo, tvb(80, 4))
        tree:add_le(f.held, tvb(84, 4))
    end
    local items, at = tvb(88, 4):le_uint(), REQUEST_ITEMS
    tree:add_le(f.items, tvb(88, 4))
    for _ = 1, math.min(items, MOST_ITEMS) do
        at = item(tvb, at, tree)
        if at == nil then break end
    end
    if items > MOST_ITEMS or at ~= tvb:len() then
        tree:add_proto_expert_info(malformed, "The items do not fill the datagram")
    end
    local done = is_set(tvb(48, 1):uint(), 0) and ", done" or ""
    return string.format("%d items, %d received, %d lost%s",
        items, tvb(52, 4):le_uint(), tvb(56, 4):le_uint(), done)
end

local function data(tvb, tree)
    tree:add_le(f.block, tvb(28, 4))
    tree:add(f.bytes, tvb(HEADER, BLOCK))
    return string.format("object %d, block %d", tvb(24, 4):le_uint(), tvb(28, 4):le_uint())
end

local function proof(tvb, tree)
    tree:add(f.level, tvb(31, 1))
    tree:add_le(f.index, tvb(28, 3))
    for at = HEADER, HEADER + BLOCK - VALUE, VALUE do
        tree:add(f.child, tvb(at, VALUE))
    end
    return string.format("object %d, node %d of level %d",
        tvb(24, 4):le_uint(), tvb(28, 3):le_uint(), tvb(31, 1):uint())
end

local function parity(tvb, tree)
    tree:add_le(f.parity_index, tvb(28, 2))
    tree:add_le(f.parity_queued, tvb(30, 2))
    tree:add(f.parity_bytes, tvb(HEADER, BLOCK))
    for at = HEADER + BLOCK, tvb:len() - VALUE, VALUE do
        tree:add(f.parity_path, tvb(at, VALUE))
    end
    return string.format("object %d, parity block %d, %d behind it",
        tvb(24, 4):le_uint(), tvb(28, 2):le_uint(), tvb(30, 2):le_uint())
end

local function challenge(tvb, tree)
    tree:add_le(f.challenge_client, tvb(HEADER, 8))
    tree:add_le(f.challenge_token, tvb(HEADER + 8, 8))
    return ""
end

-- What both datagrams of the probe have at the same places.
local function of_probe(tvb, tree, step, way)
    tree:add_le(f.run, tvb(2, 2))
    tree:add_le(f.probe_token, tvb(32, 8))
    tree:add_le(f.probe_client, tvb(40, 8))
    tree:add(f.step, tvb(step, 1))
    tree:add(f.way, tvb(way, 1))
    if WAYS[tvb(way, 1):uint()] == nil then
        tree:add_proto_expert_info(malformed, "No way of a datagram")
    end
    return string.format("step %d, %s", tvb(step, 1):uint(), WAYS[tvb(way, 1):uint()] or "?")
end

local function probe(tvb, tree)
    local summary = of_probe(tvb, tree, 65, 68)
    tree:add_le(f.probe_rate, tvb(48, 8))
    tree:add_le(f.number, tvb(56, 4))
    tree:add_le(f.before, tvb(60, 4))
    local phase = tvb(64, 1)
    tree:add(f.phase, phase)
    if PHASES[phase:uint()] == nil then
        tree:add_proto_expert_info(malformed, "No phase of a run")
    end
    tree:add(f.ttl, tvb(66, 1))
    local heard = tree:add(f.heard, tvb(67, 1))
    for way = UNICAST, BROADCAST do
        if is_set(tvb(67, 1):uint(), way) then heard:add(f.heard_way, tvb(67, 1), way) end
    end
    local flags = tree:add(f.probe_flags, tvb(69, 1))
    flags:add(f.takes_part, tvb(69, 1))
    flags:add(f.load, tvb(69, 1))
    return string.format("%s, %s, %d bytes", PHASES[phase:uint()] or "?", summary, tvb:len())
end

local function probe_reply(tvb, tree)
    local summary = of_probe(tvb, tree, 64, 65)
    tree:add_le(f.by_group, tvb(48, 4))
    tree:add_le(f.by_all_hosts, tvb(52, 4))
    tree:add_le(f.loads, tvb(56, 4))
    tree:add_le(f.loads_lost, tvb(60, 2))
    tree:add_le(f.largest, tvb(62, 2))
    tree:add(f.enough, tvb(66, 1))
    return string.format("%s, %d received", summary, tvb(56, 4):le_uint())
end

local DISSECTORS = {
    [ANNOUNCE] = announce,
    [REQUEST] = request,
    [DATA] = data,
    [PROOF] = proof,
    [PARITY] = parity,
    [CHALLENGE] = challenge,
    [PROBE] = probe,
    [PROBE_REPLY] = probe_reply,
}

-- Whether a datagram of this type can be so long.
local function has_length(kind, length)
    if length > LONGEST then return false end
    if kind == ANNOUNCE then return length == ANNOUNCE_HEAD + BLOCK end
    if kind == REQUEST then return length >= REQUEST_ITEMS end
    if kind == DATA or kind == PROOF then return length == HEADER + BLOCK end
    if kind == PARITY then
        return length >= HEADER + BLOCK and (length - HEADER - BLOCK) % VALUE == 0
    end
    if kind == PROBE then return length >= PROBE_SIZE end
    if kind == PROBE_REPLY then return length == PROBE_SIZE end
    return kind == CHALLENGE and length == HEADER + 16
end

local function is_frisbee(tvb)
    return tvb:len() >= HEADER and tvb(0, 1):uint() == VERSION and has_length(tvb(1, 1):uint(), tvb:len())
end

-- Returns the bytes that it has taken: all, or none of a datagram of another protocol.
function frisbee.dissector(tvb, pinfo, root)
    if not is_frisbee(tvb) then return 0 end
    pinfo.cols.protocol = "Frisbee"
    local tree = root:add(frisbee, tvb())
    local kind = tvb(1, 1):uint()
    tree:add(f.version, tvb(0, 1))
    tree:add(f.type, tvb(1, 1))
    tree:add_le(f.stream, tvb(2, 2))
    tree:add_le(f.sequence, tvb(4, 4))
    tree:add(f.uuid, tvb(8, 16))
    tree:add_le(f.object, tvb(24, 4))
    tree:add_le(f.position, tvb(28, 4))
    local summary = DISSECTORS[kind](tvb, tree)
    local info = string.format("%s %04x/%u %s", TYPES[kind], tvb(2, 2):le_uint(), tvb(4, 4):le_uint(), summary)
    pinfo.cols.info = info
    tree:append_text(", " .. info)
    return tvb:len()
end

-- By its form on any port, but on the default one first: Wireshark takes that for another protocol's.
frisbee:register_heuristic("udp", function(tvb, pinfo, root)
    return frisbee.dissector(tvb, pinfo, root) > 0
end)
DissectorTable.get("udp.port"):add(7001, frisbee)
