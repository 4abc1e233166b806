// One of two parts of a process, each of which uses pyhold.
#ifndef PYHOLD_TESTS_LINKAGE_PART_H_
#define PYHOLD_TESTS_LINKAGE_PART_H_

struct Part {
  int abi_number;
  const void* core;   // the address of a function of the core that it uses
  const void* layer;  // that of an inline variable of the C++ layer
  bool sees_codes_of_the_other;
  // Makes a view; registers an error code, or looks whether someone has.
  // Attached.
  void (*start)(bool registers_error_code);
  // Uses pyhold, and calls `inside` meanwhile, on a thread that Python did not
  // make. Returns 0, or a number that says what went wrong.
  int (*call)(int (*inside)());
};

extern "C" {
__attribute__((visibility("default"))) Part* part_a();
__attribute__((visibility("default"))) Part* part_b();
}

#endif  // PYHOLD_TESTS_LINKAGE_PART_H_
