// Writes to many peers: small messages at once, large ones from a thread of its own, without Python. An image for a
// hundred consoles is a gigabyte a second, and whatever copies that into sockets must not be the thread that places tools.
//
// A large message is copied once and shared by its receivers. They get it one after another, each as fast as it reads;
// until a peer's turn comes small messages still pass, and a newer message of the same device takes its place. What a
// peer has begun to get must be finished first: it is `busy`, and when that is over it is reported through an eventfd.
// The sockets stay the caller's: they are duplicated here, and only written to, by nobody else.
#include <cstddef>
#include <cstdint>

#if defined(__linux__)

#include <fcntl.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

namespace {

constexpr std::size_t kSliceBytes = 1 << 18;
constexpr int kEvents = 64;
constexpr std::uint64_t kWake = 0;

using Data = std::shared_ptr<const std::vector<unsigned char>>;

// The loop has real-time priority, and the thread has not: without inheritance the loop would wait for a thread that
// has the lock and no core.
class Lock {
 public:
  Lock() {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
    pthread_mutex_init(&mutex_, &attributes);
    pthread_mutexattr_destroy(&attributes);
  }
  ~Lock() { pthread_mutex_destroy(&mutex_); }
  void lock() { pthread_mutex_lock(&mutex_); }
  void unlock() { pthread_mutex_unlock(&mutex_); }

 private:
  pthread_mutex_t mutex_;
};

using Held = std::lock_guard<Lock>;

struct Waiting {
  Data data;
  std::size_t sent;
  std::uint64_t device;  // 0: never replaced
  bool begun;            // its turn has come: nothing may go before it
};

struct Peer {
  int socket = -1;
  std::deque<Waiting> queue;
  bool in_line = false;   // for the thread
  bool watched = false;   // by epoll, for room in the socket
  bool sending = false;   // the thread uses the socket without the lock
  bool told_busy = false;
  bool removed = false;
  bool failed = false;

  bool busy() const { return !queue.empty() && queue.front().begun; }
};

enum Outcome : int { kFailed = -1, kFree = 0, kBusy = 1, kReplaced = 2 };

Data copy(const unsigned char* data, std::size_t size) {
  return std::make_shared<const std::vector<unsigned char>>(data, data + size);
}

class Sender {
 public:
  Sender(int epoll, int wake, int freed) : epoll_(epoll), wake_(wake), freed_(freed) {
    epoll_event event{EPOLLIN, {.u64 = kWake}};
    epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_, &event);
    thread_ = std::thread([this] { run(); });
  }

  ~Sender() {
    {
      const Held held(lock_);
      ended_ = true;
    }
    signal(wake_);
    thread_.join();
    for (auto& [number, peer] : peers_) close(peer.socket);
    close(epoll_);
    close(wake_);
    close(freed_);
  }

  int freed() const { return freed_; }

  std::uint64_t add(int socket) {
    const int own = fcntl(socket, F_DUPFD_CLOEXEC, 0);
    if (own < 0) return 0;
    const Held held(lock_);
    peers_[++last_].socket = own;
    return last_;
  }

  // Nothing more is written to the peer's socket, but for a slice that is under way.
  void remove(std::uint64_t number) {
    const Held held(lock_);
    const auto found = peers_.find(number);
    if (found == peers_.end()) return;
    found->second.removed = true;
    if (!found->second.sending) erase(found);
  }

  // A small message: at once if the socket has room and nothing else has begun, otherwise right behind that; an ordered
  // one behind all other ordered ones.
  int write(std::uint64_t number, const unsigned char* data, std::size_t size, bool ordered) {
    const Held held(lock_);
    Peer* const peer = usable(number);
    if (peer == nullptr) return kFailed;
    const auto waits = [](const Waiting& one) { return one.device == 0 && !one.begun; };
    if (ordered && std::any_of(peer->queue.begin(), peer->queue.end(), waits)) {
      peer->queue.push_back({copy(data, size), 0, 0, false});
      peer->told_busy = true;
      return kBusy;
    }
    std::size_t sent = 0;
    if (!peer->busy()) {
      while (sent < size) {
        const ssize_t now = send(peer->socket, data + sent, size - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (now < 0 && errno == EINTR) continue;
        if (now < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
          fail(*peer);
          return kFailed;
        }
        if (now < 0) break;
        sent += std::size_t(now);
      }
      if (sent == size) return kFree;
    }
    auto behind = peer->queue.begin();
    while (behind != peer->queue.end() && behind->begun) ++behind;
    peer->queue.insert(behind, {copy(data + sent, size - sent), 0, 0, true});
    if (!peer->sending) watch(number, *peer);
    peer->told_busy = true;
    return kBusy;
  }

  // A large message: in its turn, in the place of an older one of its device whose turn has not come. One of no device is
  // ordered, and keeps the peer busy, so that no more of them come than it reads.
  int queue(std::uint64_t number, const Data& data, std::uint64_t device) {
    const Held held(lock_);
    Peer* const peer = usable(number);
    if (peer == nullptr) return kFailed;
    for (Waiting& waiting : peer->queue)
      if (device != 0 && waiting.device == device && !waiting.begun) {
        waiting.data = data;
        return kReplaced;
      }
    peer->queue.push_back({data, 0, device, false});
    if (!peer->busy()) line_up(number, *peer);
    if (device != 0) return kFree;
    peer->told_busy = true;
    return kBusy;
  }

  // Whether there was a message of the device whose turn had not come.
  bool withdraw(std::uint64_t number, std::uint64_t device) {
    const Held held(lock_);
    Peer* const peer = usable(number);
    const auto waits = [device](const Waiting& one) { return one.device == device && !one.begun; };
    return peer != nullptr && std::erase_if(peer->queue, waits) > 0;
  }

  std::size_t bytes(std::uint64_t number) {
    const Held held(lock_);
    std::size_t sum = 0;
    if (const Peer* const peer = usable(number))
      for (const Waiting& waiting : peer->queue) sum += waiting.data->size() - waiting.sent;
    return sum;
  }

  // Peers that were busy and no longer are.
  int take_freed(std::uint64_t* numbers, int most) {
    const Held held(lock_);
    const int count = std::min(most, int(free_.size()));
    std::copy_n(free_.end() - count, count, numbers);
    free_.resize(free_.size() - std::size_t(count));
    return count;
  }

 private:
  static void signal(int eventfd) {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(eventfd, &one, sizeof one);
  }

  Peer* usable(std::uint64_t number) {
    const auto found = peers_.find(number);
    const bool usable = found != peers_.end() && !found->second.failed && !found->second.removed;
    return usable ? &found->second : nullptr;
  }

  void erase(std::unordered_map<std::uint64_t, Peer>::iterator found) {
    unwatch(found->second);
    close(found->second.socket);
    peers_.erase(found);
  }

  // Whoever reads from the connection finds out why.
  void fail(Peer& peer) {
    peer.failed = true;
    peer.queue.clear();
    unwatch(peer);
  }

  void line_up(std::uint64_t number, Peer& peer) {
    if (peer.in_line) return;
    peer.in_line = true;
    line_.push_back(number);
    signal(wake_);
  }

  // Only while something waits: a socket would report its end again and again.
  void watch(std::uint64_t number, Peer& peer) {
    if (peer.watched) return;
    epoll_event event{EPOLLOUT, {.u64 = number}};
    peer.watched = epoll_ctl(epoll_, EPOLL_CTL_ADD, peer.socket, &event) == 0;
  }

  void unwatch(Peer& peer) {
    if (peer.watched) epoll_ctl(epoll_, EPOLL_CTL_DEL, peer.socket, nullptr);
    peer.watched = false;
  }

  void run() {
    // Threads inherit the real-time priority of the one that starts them, and this one is to yield to it.
    const sched_param ordinary{};
    pthread_setschedparam(pthread_self(), SCHED_OTHER, &ordinary);
    epoll_event events[kEvents];
    for (bool more = false;;) {
      const int ready = epoll_wait(epoll_, events, kEvents, more ? 0 : -1);
      for (int i = 0; i < ready; ++i)
        if (events[i].data.u64 == kWake) {
          std::uint64_t count;
          [[maybe_unused]] const auto taken = read(wake_, &count, sizeof count);
        } else {
          serve(events[i].data.u64);
        }
      std::uint64_t next = kWake;
      {
        const Held held(lock_);
        if (ended_) return;
        if (!line_.empty()) {
          next = line_.front();
          line_.pop_front();
          if (const auto found = peers_.find(next); found != peers_.end()) found->second.in_line = false;
        }
        more = !line_.empty();
      }
      if (next != kWake) serve(next);
    }
  }

  // Sends what has begun, or else begins with the next message, until it is out or the socket is full.
  void serve(std::uint64_t number) {
    while (send_slice(number)) {
    }
  }

  // The lock is not held while the system copies: that may take a tenth of a millisecond, and the loop goes on meanwhile.
  bool send_slice(std::uint64_t number) {
    Data data;
    std::size_t from;
    int socket;
    {
      const Held held(lock_);
      Peer* const peer = usable(number);
      if (peer == nullptr || peer->queue.empty()) return false;
      peer->queue.front().begun = peer->sending = true;
      socket = peer->socket;
      data = peer->queue.front().data;
      from = peer->queue.front().sent;
    }
    const std::size_t size = std::min(data->size() - from, kSliceBytes);
    const ssize_t sent = send(socket, data->data() + from, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    const int error = sent < 0 ? errno : 0;
    const Held held(lock_);
    const auto found = peers_.find(number);
    Peer& peer = found->second;
    peer.sending = false;
    if (peer.removed) {
      erase(found);
      return false;
    }
    if (error == EINTR) return true;
    if (error == EAGAIN || error == EWOULDBLOCK) {
      watch(number, peer);
      return false;
    }
    if (error != 0) {
      fail(peer);
    } else {
      peer.queue.front().sent += std::size_t(sent);
      if (peer.queue.front().sent < data->size()) return true;
      peer.queue.pop_front();
      if (peer.busy()) return true;
      if (!peer.queue.empty()) line_up(number, peer);  // others come first
    }
    unwatch(peer);
    if (peer.told_busy) {
      peer.told_busy = false;
      free_.push_back(number);
      signal(freed_);
    }
    return false;
  }

  const int epoll_, wake_, freed_;
  Lock lock_;
  std::unordered_map<std::uint64_t, Peer> peers_;
  std::deque<std::uint64_t> line_;
  std::vector<std::uint64_t> free_;
  std::uint64_t last_ = kWake;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace

#define NAVNODE_API extern "C" __attribute__((visibility("default")))

// Returns a null pointer where the system has no room for it.
NAVNODE_API void* navnode_sender_start() {
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  const int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), freed = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (epoll < 0 || wake < 0 || freed < 0) {
    for (const int one : {epoll, wake, freed})
      if (one >= 0) close(one);
    return nullptr;
  }
  return new Sender(epoll, wake, freed);
}

NAVNODE_API void navnode_sender_stop(void* sender) { delete static_cast<Sender*>(sender); }

// The eventfd that becomes readable when peers are no longer busy; it belongs to the sender.
NAVNODE_API int navnode_sender_freed_fd(void* sender) { return static_cast<Sender*>(sender)->freed(); }

NAVNODE_API std::uint64_t navnode_sender_add(void* sender, int socket) {
  return static_cast<Sender*>(sender)->add(socket);
}

NAVNODE_API void navnode_sender_remove(void* sender, std::uint64_t peer) {
  static_cast<Sender*>(sender)->remove(peer);
}

NAVNODE_API int navnode_sender_write(void* sender, std::uint64_t peer, const unsigned char* data, std::size_t size,
                                     int ordered) {
  return static_cast<Sender*>(sender)->write(peer, data, size, ordered != 0);
}

// A small unordered message to many peers, one after another; `outcomes` gets what became of it for each.
NAVNODE_API void navnode_sender_write_all(void* sender, const std::uint64_t* peers, int count, const unsigned char* data,
                                          std::size_t size, int* outcomes) {
  for (int i = 0; i < count; ++i) outcomes[i] = static_cast<Sender*>(sender)->write(peers[i], data, size, false);
}

// A message to be shared by its receivers; to be given back by navnode_sender_forget.
NAVNODE_API void* navnode_sender_copy(const unsigned char* data, std::size_t size) {
  return new Data(copy(data, size));
}

NAVNODE_API void navnode_sender_forget(void* message) { delete static_cast<Data*>(message); }

NAVNODE_API int navnode_sender_queue(void* sender, std::uint64_t peer, void* message, std::uint64_t device) {
  return static_cast<Sender*>(sender)->queue(peer, *static_cast<Data*>(message), device);
}

NAVNODE_API int navnode_sender_withdraw(void* sender, std::uint64_t peer, std::uint64_t device) {
  return static_cast<Sender*>(sender)->withdraw(peer, device);
}

NAVNODE_API std::size_t navnode_sender_bytes(void* sender, std::uint64_t peer) {
  return static_cast<Sender*>(sender)->bytes(peer);
}

NAVNODE_API int navnode_sender_take_freed(void* sender, std::uint64_t* peers, int most) {
  return static_cast<Sender*>(sender)->take_freed(peers, most);
}

#endif
