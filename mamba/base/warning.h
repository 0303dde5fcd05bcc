// Things the user should know although work goes on, such as a slow path taken for want of a kernel.
#pragma once

#include <functional>
#include <string>

namespace mamba {

// Receives each distinct warning once, as one line without a newline. The default handler drops them: the library
// never prints. Thread-safe; the handler may be called from any thread.
using WarningHandler = std::function<void(const std::string&)>;
void set_warning_handler(WarningHandler handler);

// Passes `message` to the handler unless the same message was passed before in this process.
void warn_once(const std::string& message);

}  // namespace mamba
