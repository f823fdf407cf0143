# gRPC from Debian's own CMake files; they need the protobuf targets of FindProtobuf first.
find_package(gRPC REQUIRED CONFIG)
find_program(EMOE_GRPC_PLUGIN grpc_cpp_plugin REQUIRED)
