// Operations of OpenIGTLink at memory speed: its checksum, and a walk over the cells of a surface.
//
// CRC-64 (ECMA-182): polynomial 0x42F0E1EBA9EA3693, most significant bit first, initial value 0, no final XOR.
// Where the CPU multiplies without carries, 64 bytes a step are folded onto the next 64 (Gopal et al., "Fast CRC
// computation for generic polynomials using PCLMULQDQ", Intel 2009); elsewhere, and for what is left, sixteen bytes
// a step go through sixteen tables ("slicing", Kounavis and Berry 2008).
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(NAVNODE_X86)
#include <immintrin.h>
#endif

namespace {

constexpr std::uint64_t kPolynomial = 0x42F0E1EBA9EA3693ULL;
constexpr int kSlices = 16;

using Tables = std::array<std::array<std::uint64_t, 256>, kSlices>;

constexpr Tables make_tables() {
  Tables tables{};
  for (std::uint64_t byte = 0; byte < 256; ++byte) {
    std::uint64_t crc = byte << 56;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 63) ? (crc << 1) ^ kPolynomial : crc << 1;
    tables[0][byte] = crc;
  }
  for (int slice = 1; slice < kSlices; ++slice)
    for (int byte = 0; byte < 256; ++byte) {
      const std::uint64_t crc = tables[slice - 1][byte];
      tables[slice][byte] = (crc << 8) ^ tables[0][crc >> 56];
    }
  return tables;
}

const Tables kTables = make_tables();

inline std::uint64_t load_big_endian(const unsigned char* p) {
  std::uint64_t word;
  std::memcpy(&word, p, sizeof word);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  word = __builtin_bswap64(word);
#endif
  return word;
}

std::uint64_t crc_from_tables(const unsigned char* data, std::size_t size, std::uint64_t crc) {
  while (size >= 16) {
    const std::uint64_t high = load_big_endian(data) ^ crc;
    const std::uint64_t low = load_big_endian(data + 8);
    crc = 0;
    for (int i = 0; i < 8; ++i) {
      crc ^= kTables[15 - i][(high >> (56 - 8 * i)) & 0xFF];
      crc ^= kTables[7 - i][(low >> (56 - 8 * i)) & 0xFF];
    }
    data += 16;
    size -= 16;
  }
  while (size-- > 0) crc = kTables[0][((crc >> 56) ^ *data++) & 0xFF] ^ (crc << 8);
  return crc;
}

#if defined(NAVNODE_X86)
#define NAVNODE_FOLDING __attribute__((target("pclmul,ssse3,sse4.1")))

// x^exponent modulo the polynomial.
std::uint64_t power_of_x(int exponent) {
  std::uint64_t power = 1;
  for (int i = 0; i < exponent; ++i) power = (power >> 63) ? (power << 1) ^ kPolynomial : power << 1;
  return power;
}

// Moves 128 bits of the message by `bits` towards its end: high and low half times x^(bits + 64) and x^bits.
struct Fold {
  explicit Fold(int bits) : high(power_of_x(bits + 64)), low(power_of_x(bits)) {}
  std::uint64_t high, low;
};

const Fold kFold128(128), kFold512(512);

NAVNODE_FOLDING inline __m128i factors(const Fold& fold) {
  return _mm_set_epi64x(static_cast<long long>(fold.high), static_cast<long long>(fold.low));
}

NAVNODE_FOLDING inline __m128i folded(__m128i block, __m128i by) {
  return _mm_xor_si128(_mm_clmulepi64_si128(block, by, 0x11), _mm_clmulepi64_si128(block, by, 0x00));
}

// The first byte in memory becomes the most significant one, and back.
NAVNODE_FOLDING inline __m128i reversed(__m128i block) {
  return _mm_shuffle_epi8(block, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

NAVNODE_FOLDING inline __m128i load_block(const unsigned char* data) {
  return reversed(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data)));
}

NAVNODE_FOLDING std::uint64_t crc_by_folding(const unsigned char* data, std::size_t size, std::uint64_t crc) {
  const __m128i by128 = factors(kFold128), by512 = factors(kFold512);
  __m128i lane[4];
  for (int i = 0; i < 4; ++i) lane[i] = load_block(data + 16 * i);
  lane[0] = _mm_xor_si128(lane[0], _mm_set_epi64x(static_cast<long long>(crc), 0));
  for (data += 64, size -= 64; size >= 64; data += 64, size -= 64)
    for (int i = 0; i < 4; ++i) lane[i] = _mm_xor_si128(folded(lane[i], by512), load_block(data + 16 * i));
  __m128i rest = lane[0];
  for (int i = 1; i < 4; ++i) rest = _mm_xor_si128(folded(rest, by128), lane[i]);
  for (; size >= 16; data += 16, size -= 16) rest = _mm_xor_si128(folded(rest, by128), load_block(data));
  unsigned char last[16];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(last), reversed(rest));
  return crc_from_tables(data, size, crc_from_tables(last, sizeof last, 0));
}

bool can_fold() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("sse4.1");
}

const bool kCanFold = can_fold();
#endif

inline std::uint32_t load_word(const unsigned char* p) {
  return std::uint32_t(p[0]) << 24 | std::uint32_t(p[1]) << 16 | std::uint32_t(p[2]) << 8 | p[3];
}

}  // namespace

extern "C" __attribute__((visibility("default"))) std::uint64_t navnode_crc64(
    const unsigned char* data, std::size_t size, std::uint64_t crc) {
#if defined(NAVNODE_X86)
  if (kCanFold && size >= 128) return crc_by_folding(data, size, crc);
#endif
  return crc_from_tables(data, size, crc);
}

// How many cells (n, i1 ... in) of `points` points fill exactly these big-endian words; -1 when they do not, or when a
// cell names a point that does not exist.
extern "C" __attribute__((visibility("default"))) std::int64_t navnode_count_cells(
    const unsigned char* words, std::size_t count, std::uint32_t points) {
  std::int64_t cells = 0;
  for (std::size_t at = 0; at < count; ++cells) {
    const std::size_t size = load_word(words + 4 * at++);
    if (size > count - at) return -1;
    for (const std::size_t end = at + size; at < end; ++at)
      if (load_word(words + 4 * at) >= points) return -1;
  }
  return cells;
}
