"""Image files that libraries do not write: odd, damaged, or made to cost much."""

import base64
import io
import struct
import zlib

import numpy as np
from PIL import Image

SIZE = (64, 48)
"""Width and height."""


def halves(size: tuple[int, int] = SIZE) -> Image.Image:
    """Red on the left, blue on the right."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2, 0] = pixels[:, size[0] // 2 :, 2] = 255
    return Image.fromarray(pixels)


def photo(size: tuple[int, int] = (300, 200)) -> Image.Image:
    """Smooth waves of all colours."""
    y, x = np.mgrid[0 : 1 : size[1] * 1j, 0 : 1 : size[0] * 1j]
    waves = np.stack([np.sin(10 * x + 4.5 * y), np.cos(15 * y * x), np.sin(6.5 * y - 13 * x)], axis=2)
    return Image.fromarray((127 + 120 * waves).astype(np.uint8))


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    """The image's file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    """One PNG chunk, with its CRC or another."""
    return (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc)
    )


def png(
    samples: np.ndarray, colour: int, depth: int, *chunks: bytes, interlaced: bool = False, after: bytes = b""
) -> bytes:
    """A PNG of samples (height, width) or (height, width, channels), with chunks before its pixels and some after."""
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    if depth == 16:
        packed = rows.astype(">u2").tobytes()
    elif depth == 8:
        packed = rows.astype(np.uint8).tobytes()
    else:
        bits = (rows[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        packed = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1).tobytes()
    row = len(packed) // height
    lines = b"".join(b"\0" + packed[row * y : row * (y + 1)] for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            *chunks,
            chunk(b"IDAT", zlib.compress(lines, 1)),
            after,
            chunk(b"IEND", b""),
        )
    )


def png_with(data: bytes, *chunks: bytes) -> bytes:
    """A PNG with more chunks after its header."""
    return data[:33] + b"".join(chunks) + data[33:]


def exif(orientation: int, order: str = "<", kind: int = 3, *others: bytes) -> bytes:
    """EXIF data with an orientation of a type, beside other entries of 12 bytes."""
    value = struct.pack(f"{order}{'I' if kind == 4 else 'H'}", orientation).ljust(4, b"\0")
    entries = (*others, struct.pack(f"{order}HHI", 0x0112, kind, 1) + value)
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}IH", 8, len(entries)) + b"".join(entries) + bytes(4)


def jpeg_with(data: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG with more segments (marker, body) after its start."""
    more = (struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    return data[:2] + b"".join(more) + data[2:]


def bmp(
    pixels: bytes, size: tuple[int, int], bits: int, compression: int = 0, header: int = 40, masks: tuple[int, ...] = ()
) -> bytes:
    """A BMP of rows from below upwards; masks for bit fields."""
    info = struct.pack("<IiiHHIIiiII", header, *size, 1, bits, compression, len(pixels), 2835, 2835, 0, 0)
    fields = b"".join(struct.pack("<I", mask) for mask in masks)
    info = (info + fields).ljust(max(header, 40 + len(fields)), b"\0")
    start = 14 + len(info)
    return struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start) + info + pixels


def gif(canvas: tuple[int, int], offset: tuple[int, int], image: Image.Image, clear: int | None = None) -> bytes:
    """A GIF whose one frame, of palette indices, lies somewhere on its canvas; one colour may be transparent."""
    one = encoded(image, "GIF")
    packed = one[10]
    start = 13 + (3 << ((packed & 7) + 1))
    frame = one[one.index(b",", start) :]
    control = b"" if clear is None else b"!\xf9\4\1\0\0" + bytes([clear]) + b"\0"
    place = struct.pack("<HH", *offset)
    return b"GIF89a" + struct.pack("<HH", *canvas) + one[10:start] + control + b"," + place + frame[5:]


def tiff_of(compression: int, body: bytes, side: int) -> bytes:
    """A TIFF of one strip of three samples of 8 bits."""
    tags = {256: side, 257: side, 258: 8, 259: compression, 262: 6, 273: 8, 277: 3, 278: side, 279: len(body)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


# Made with x265, which no library here carries: HALVES, then the right half transparent, and a large blue square.
HEIC = base64.b85decode(
    "0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<0004fZDn*}000000000XXk=`10000000000aA{+700000000000000000000B57=I"
    "V*mgE07O6l0RRC200001p#T8@00000002V(001LtX>Mi!000000RR916=`l}WdZ;I000310BCk&F#rGn01j|zbZr0t000010002}"
    "X>f9I0002pX>en20001XXm(>m0RwOV0058x000009`FGC{rLC*01pFT0096PKmiN^|NjGU00093kN^M!000939=ZZRVE_RDDnbDP"
    "18@KU0|1Z!00RI30{|YNAb|yz>g1-mxCm%4AOHXZ10VnZ0{|gn00967L;=Bbz=;3=025<xY;ta6Y<K_x01W^JfB*mh6lrsCWdHyG"
    "00000KmY&$KmY&$C}V74Z~y=RKmY&$0RR91FaQ7m0RR91000000{{R2@Bjb+0ssI25O8UDX#fBK00RgJ2mk;87-?{AVE_OC00000"
    "0RRC7fdT^sga7~lOKoIfbN~PVKPUmOSmyNVzyIeuzyB&dA@(H~*Z<<H)qhbtPyAseNi9L4I76sYSrzmF|6kG&w1Ix<B+ncphw$C%"
    "?7^ZG"
)
HEIC_CLEAR = base64.b85decode(
    "0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<0007OZDn*}000000000XXk=`10000000000aA{+700000000000000000000G-+&a"
    "V*mgE07O6l0ssL300002j{pGx00000002V(0ssI200Png0RR9100000JpcdzIB98aW&i*H00062000$fZf0cy000000RRAKc4ILB"
    "0000LX>Mj^0ssI200IC2Xm(>U000004sdC7Z2$lO0003100F9LaB^?}00Dw&aAR)(004Gqc4I>U18@KU0FVFx0000U@BsY%`1k+-"
    "4+CHT0RR|40Sp2E{{wIU00RJ!0009300RIXx&lC90096hLID8-Z~y=U0FVFx0{{R603M(qfd!W8<fgf}2xu@M00096AOHXZ03l)k"
    "0RRR>0l{;?i2wiq6Ju{|a&BX6cmM$a4FCp!0000KX>)L8000000000$0000$0000eV{Bn?0000$000010000m000010000000002"
    "|NsB+000020000GaA|mH000000|*ER0001RXm(>m0R#vD005u(000009`FGC{P_3)01pFT0096OKmiN^|NjIC00093pZEX(0{{RX"
    "x&lC90096cLID8;2mk;B0H62(00RI39>9VG7F(;5n&!ZO000bt00093gkk^z00u+>!E?Zg0000EaA|mH000000SEv904HH}ctZdH"
    "004DzZaQsnWoJ5QWp-maGB7bUI$?EqX=FMv00000AZc)IVE_OC000000ssL8fdT^sga85sh64wPga7~l8fkK6W&i*H000004q<h8"
    "YybiP0RRC2004+>WMOmw002KI0k2r*^y<I==R3duDm@|gB^THK;;YqvQ9DokVI@f|L7_N9s8d-L^a1~0(h#(Pe(5C793zMD-RkVY"
    "q7(oC068cDuCTN`x7dFmFXjLL35`$%mDsfx2R#<ZV1#Kt53pn&v|)SVf5t`k+WZEq4EIi5&Mv9m6}mt"
)
HEIC_LARGE = base64.b85decode(
    "0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<00044ZDn*}000000000XXk=`10000000000aA{+700000000000000000000B57=I"
    "V*mgE07O6l0RRC200001d;kFe0000000W}{001LtX>Mi!000000RR916=`l}WdZ;I000310BCk&F#rGn01j|zbZr0t000010002k"
    "X>f9I0002FX>en20001bXm(>m0RwOV0058x00000mhb@l{rLC*01pFT0096PKmiN^|NjGU00093kN^M!00093mbwB!VE_RDEkXeS"
    "18@KU0|1Z!00RI30|1tw1HgbD1(xbbDXwk;8Vm>k00RKX000932tZ;00RRU?0l{*xVn6@@025<xY;ta6Y<K_x01W^JfB*mh6lrsC"
    "WdHyG00007fB*mofB*mh5O8UDX#fBK00RgJ2mk;87in;9VE_OC000000RRC6fdT^r000B4ZDe6|000A@C;_ho5b>~z2i|$tU3J%7"
    "amL$iw%cvC+ikYnfc$wl>;L*Rr|n#yk#QUQ1m<*i0+?8tfB*mk0009300RI30{{R60009300RI3KA@-Q?gn7RJpcd$0009300RI3"
    "0{{R60009300RI30{{TPfRhb0zyJUP0009300RI30{{R60009300RI30{{R60+NRS00RI30{{R60009300RI30{{R60009300RI3"
    "5fA_X0{{R60009300RI30{{R60009300RI30{{R83;+NF0009300RI30{{R60009300RI30{{R6004-90009300RI30{{R600093"
    "00RI30{{R6000930~P=P0{{R60009300RI30{{R60009300RI30{{#-0009300RI30{{R60009300RI30{{R600093ARqt$0{{R6"
    "0009300RI30{{R60009300RI30{}MQ0009300RI30{{R60009300RI30{{R600093aX<h70{{R60009300RI30{{R60009300RI3"
    "0|48A0009300RI30{{R60009300RI30{{R600094B>(^e0009300RI30{{R60009300RI30{{R60tx^C0{{R60009300RI30{{R6"
    "0009300RI30|Mdz00RI30{{R60009300RI30{{R60009300cw;00RI30{{R60009300RI30{{R60009300smA00RI30{{R600093"
    "00RI30{{R60009300(RU00RI30{{R60009300RI30{{R60009300~F{00RI30{{R60009300RI30{{R60009301KD^00RI30{{R6"
    "0009300RI30{{R60009301fy600RI30{{R60009300RI30{{R60009301+?%00RI30{{R60009300RI30{{R60009302HtQ00RI3"
    "0{{R60009300RI30{{R60009302lB800RI30{{R60009300RI30{{R60009302;6W00RI30{{R60009300RI30{{R60009303L7v"
    "00RI30{{R60009300RI30{{R60009303l!i00RI30{{R60009300RI30{{R60009303)CP00RI30{{R60009300RI30{{R600093"
    "043l600RI30{{R60009300RI30{{R60009304Sg"
)
