// Two units of one program that embed the library.
extern "C" int entry_one(int fill);
extern "C" int entry_two(int fill);

int main() {
  const int first = entry_one(1);
  return first != 0 ? first : entry_two(2);
}
